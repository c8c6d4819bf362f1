"""Verdicts of localizers on labelled solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpi.core.episodes import Episode, Prefix
from envs.tabular import FloatArray
from llm.engines.engine import MAX_SEED
from llm.localize.data import LabelledSolutions, Solution
from llm.localize.options import LocalizeOptions
from llm.resets.localizers import make_localizer, prompts, reads_logprobs, requests
from llm.resets.prompted import PromptedLocalizer, Reply
from llm.resets.step_logprob import StepLogprobLocalizer
from llm.tasks import Task
from llm.thoughts.simulator import Prompt, Thought, ThoughtSimulator, encode


class Verdict(NamedTuple):
    """Output of a localizer for one solution of n steps.

    Attributes
    ----------
    weights : array (n + 1,)
        Entry 0 stands for "no step is wrong", entry k for step k.
    usable : bool
        Whether the reply could be read, and the request fitted into the model.
    tokens : float
        Tokens generated.
    """

    weights: FloatArray
    usable: bool
    tokens: float

    @property
    def best(self) -> NDArray[np.intp]:
        """The entries with the largest weight; none if the verdict is not usable."""
        top = self.weights >= self.weights.max() * (1 - 1e-12)
        return np.flatnonzero(top) if self.usable else np.zeros(0, dtype=np.intp)

    @property
    def steps(self) -> FloatArray:
        """Probability that training resets to each step, shape (n,): weights of steps, scaled."""
        steps = self.weights[1:]
        return steps / steps.sum() if steps.sum() > 0 else np.full(len(steps), 1 / len(steps))


def make_judge(
    data: LabelledSolutions, simulator: ThoughtSimulator, options: LocalizeOptions
) -> Callable[[Sequence[Solution]], list[dict[str, Verdict]]]:
    """A function from solutions to the verdicts of all localizers on each.

    A verdict depends on its solution alone, not on the others. Localizers are asked in turn about
    the same solutions, first those that generate: a Transformers engine then reads a request once
    if its `keep_prompts` is set. Log-probs are computed only if a localizer reads them.

    Parameters
    ----------
    data : LabelledSolutions
    simulator : ThoughtSimulator
        Of the task of the data.
    options : LocalizeOptions

    Raises
    ------
    ValueError
        If the data do not fit a localizer. The function raises it if a solution is too long for
        the model.
    """
    names = sorted(options.localizers, key=lambda name: not prompts(name))
    judges = {name: _judge(name, data, simulator, options) for name in names}
    scored = any(map(reads_logprobs, names))

    def judge(solutions: Sequence[Solution]) -> list[dict[str, Verdict]]:
        episodes = as_episodes(solutions, data.separator, simulator, scored)
        found = {name: judges[name](solutions, episodes) for name in names}
        return [{name: each[i] for name, each in found.items()} for i in range(len(solutions))]

    return judge


#: Gives the verdicts on some solutions, which are also given as episodes.
Judge = Callable[[Sequence[Solution], Sequence[Episode]], list[Verdict]]


def _judge(
    name: str, data: LabelledSolutions, simulator: ThoughtSimulator, options: LocalizeOptions
) -> Judge:
    """The localizer of this name as a function to verdicts."""
    may_be_right = options.may_be_right and requests(name)
    if may_be_right and type(data.task).localization_prompt is not Task.localization_prompt:
        raise ValueError(
            f"may_be_right: {data.task} words its own request, which asks for a wrong step"
        )
    prompted = PromptedLocalizer(
        simulator, np.random.default_rng(options.seed), options.localization, may_be_right
    )
    if prompts(name):
        return lambda batch, episodes: _replies(prompted, options.seed, batch, episodes)
    localizer = make_localizer(name, data.task, prompted)
    if isinstance(localizer, StepLogprobLocalizer):
        return lambda batch, episodes: _probabilities(localizer, episodes)

    def judge(batch: Sequence[Solution], episodes: Sequence[Episode]) -> list[Verdict]:
        before = getattr(localizer, "cost", 0)
        weights = localizer(episodes)
        tokens = (getattr(localizer, "cost", 0) - before) / len(batch)
        return [
            Verdict(np.append(0.0, w), bool(w.any()), tokens)
            for w in checked_weights(name, weights, episodes)
        ]

    return judge


def checked_weights(
    name: str, weights: Sequence[FloatArray], episodes: Sequence[Episode]
) -> Sequence[FloatArray]:
    """Refuse weights that are not one number ≥ 0 for each step of each episode."""
    if [np.shape(w) for w in weights] != [(episode.length,) for episode in episodes]:
        raise ValueError(f"localizer: {name} does not give one weight for each step")
    if not all(np.isfinite(w).all() and (np.asarray(w) >= 0).all() for w in weights):
        raise ValueError(f"localizer: {name} gives a weight that is not a number ≥ 0")
    return weights


def _replies(
    prompted: PromptedLocalizer, seed: int, batch: Sequence[Solution], episodes: Sequence[Episode]
) -> list[Verdict]:
    """Verdicts by the model's replies."""
    seeds = [np.random.default_rng([seed, s.number]).integers(MAX_SEED) for s in batch]
    replies = prompted.ask(episodes, seeds)
    return [_of_reply(reply, e.length) for reply, e in zip(replies, episodes, strict=True)]


def _of_reply(reply: Reply, n: int) -> Verdict:
    weights = np.isin(np.arange(n + 1), reply.winners).astype(float)
    return Verdict(weights, bool(reply.winners), float(reply.tokens))


def _probabilities(localizer: StepLogprobLocalizer, episodes: Sequence[Episode]) -> list[Verdict]:
    """Verdicts by the probabilities of step numbers."""
    return [
        Verdict(np.ones(e.length + 1), False, 0.0)
        if p is None
        else Verdict(np.append(np.zeros(e.length + 1 - len(p)), p), True, 0.0)
        for p, e in zip(localizer.probabilities(episodes), episodes, strict=True)
    ]


def as_episodes(
    solutions: Sequence[Solution], separator: str, simulator: ThoughtSimulator, scored: bool = True
) -> list[Episode]:
    """Solutions as failed episodes, with the model's log-probs of their tokens if `scored`.

    Log-probs are NaN otherwise. Each step is tokenized by itself, so that boundaries of steps are
    boundaries of tokens.

    Raises
    ------
    ValueError
        If a step has no token, or a solution is too long for the model.
    """
    starts, thoughts = [], []
    for solution in solutions:
        starts.append(_start(solution, simulator.tokenizer))
        steps = [step + separator for step in solution.steps[:-1]] + [solution.steps[-1]]
        ids = [simulator.tokenizer(t, add_special_tokens=False).input_ids for t in steps]
        if not all(ids):
            raise ValueError(f"data: a step of {solution.id!r} has no token of this model")
        size, most = len(starts[-1].ids) + sum(map(len, ids)), simulator.engine.max_model_len - 1
        if size > most:
            raise ValueError(
                f"data: problem and solution {solution.id!r} have {size} tokens, more than the "
                f"{most} that the model takes; leave it out"
            )
        thoughts.append(list(zip(steps, ids, strict=True)))
    texts = [[i for _, ids in each for i in ids] for each in thoughts]
    scores = [np.full(len(text), np.nan) for text in texts]
    if scored:
        scores = simulator.engine.logprobs([start.ids for start in starts], texts)
    episodes = []
    for start, parts, logprobs in zip(starts, thoughts, scores, strict=True):
        ends = np.cumsum([len(ids) for _, ids in parts])
        split = np.split(logprobs, ends)[:-1]
        made = tuple(
            Thought(tuple(ids), lp, text, "delimiter")
            for (text, ids), lp in zip(parts, split, strict=True)
        )
        episodes.append(Episode(Prefix(start), made, 0.0, True, 0))
    return episodes


def _start(solution: Solution, tokenizer: object) -> Prompt:
    """The problem as a prompt: a chat message if the tokenizer has a template."""
    example = solution.example
    if example.prompt == example.problem:  # from a file, without instructions
        chat = getattr(tokenizer, "chat_template", None)
        messages = [{"role": "user", "content": example.problem}]
        example = example._replace(prompt=messages if chat else f"{example.problem}\n\n")
    return Prompt(encode(tokenizer, example.prompt), example)
