r"""Localizer by the log-prob of the step's number: nothing is generated, and every reply parses.

The request is that of the prompted localizer. The candidate replies are `\boxed{1}` … `\boxed{n}`;
the closing brace keeps 1 apart from 10. Their probabilities, normalized over the candidates, are a
distribution over steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from cpi.core.episodes import Episode
from envs.tabular import FloatArray
from llm.resets.prompted import PromptedLocalizer


class StepLogprobLocalizer:
    """Weighs each step by the probability of its number as the reply.

    A request that is too long for the model weighs all steps equally, and is counted.

    Parameters
    ----------
    prompted : PromptedLocalizer
        Writes the requests, and has the engine. If its request allows the reply that no step is
        wrong, that candidate takes part in `probabilities`.

    Attributes
    ----------
    cost : int
        Tokens generated: none.
    failed : int
        Number of requests that were too long.
    """

    cost = 0

    def __init__(self, prompted: PromptedLocalizer) -> None:
        self.prompted, self.failed = prompted, 0

    def __call__(self, episodes: Sequence[Episode]) -> list[FloatArray]:
        """Probability of each step, given that one is wrong."""
        weights = []
        for p, episode in zip(self.probabilities(episodes), episodes, strict=True):
            self.failed += p is None
            steps = np.ones(episode.length) if p is None else p[-episode.length :]
            weights.append(steps / steps.sum())
        return weights

    def probabilities(self, episodes: Sequence[Episode]) -> list[FloatArray | None]:
        """Probability of each candidate: `prompted.lowest`, …, n; None if the request is too long.

        All requests are one call of the engine. The tokens with which all candidates begin belong
        to the prompt, as their probability cancels.
        """
        lowest, engine = self.prompted.lowest, self.prompted.engine
        longest = max((episode.length for episode in episodes), default=0)
        candidates = {k: self._tokens(rf"\boxed{{{k}}}") for k in range(max(longest, 2) + 1)}
        columns = zip(*candidates.values(), strict=False)
        common = [column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns)]
        prompts: list[tuple[int, ...]] = []
        replies: list[list[int]] = []
        for episode in episodes:
            prompt = (*self.prompted.prompt(episode), *common)
            for number in range(lowest, episode.length + 1):
                prompts.append(prompt)
                replies.append(candidates[number][len(common) :])
        fits = [
            len(prompt) + len(reply) < engine.max_model_len
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        sent = np.flatnonzero(fits)
        scores = engine.logprobs([prompts[i] for i in sent], [replies[i] for i in sent])
        sums = np.full(len(prompts), -np.inf)
        sums[sent] = [score.sum() for score in scores]
        ends = np.cumsum([episode.length + 1 - lowest for episode in episodes], dtype=int)
        return [_normalized(part) for part in np.split(sums, ends)[:-1]]

    def _tokens(self, text: str) -> list[int]:
        return list(self.prompted.tokenizer(text, add_special_tokens=False).input_ids)


def _normalized(sums: FloatArray) -> FloatArray | None:
    """Probabilities from log-probs; None if some request was not sent."""
    if not np.isfinite(sums).all():
        return None
    weights = np.exp(sums - sums.max())
    return np.asarray(weights / weights.sum())
