"""The thought MDP with the settings and rewards of a `trl.GRPOTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.core.episodes import Episode, Prefix
from llm.engines import Engine
from llm.tasks.task import Example, PromptText, Task
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, ThoughtSimulator, token_ids

if TYPE_CHECKING:
    from trl import GRPOTrainer


class UserTask(Task):
    """Task built from the user's functions; `Example.data` is a row of the data set."""

    def __init__(
        self, delimiter: str, success: float, localization_prompt: Any, errors: Any
    ) -> None:
        self.delimiter, self.success = delimiter, success
        self.has_checker = errors is not None
        self._localization_prompt, self._errors = localization_prompt, errors

    def reward(self, example: Example, completion: str) -> float:
        """Placeholder 0: `TRLSimulator` scores a batch with TRL's reward functions."""
        return 0.0

    def errors(self, example: Example, thoughts: Sequence[str]) -> Any:
        """See `Task.errors`."""
        return np.asarray(self._errors(example.data, thoughts))

    def localization_prompt(self, example: Example, thoughts: Sequence[str]) -> PromptText | None:
        """See `Task.localization_prompt`."""
        if self._localization_prompt is None:
            return None
        prompt: PromptText = self._localization_prompt(example.data, thoughts)
        return prompt


class TRLSimulator(ThoughtSimulator):
    """Thought simulator with a trainer's tokens, limits, temperature and rewards."""

    def __init__(self, trainer: GRPOTrainer, engine: Engine, task: Task) -> None:
        longest = trainer.max_completion_length
        super().__init__(
            engine,
            trainer.processing_class,
            task,
            ThoughtLimits(longest, max_thoughts=longest, max_thought_tokens=longest),
            trainer.temperature,
            trainer.top_p,
            trainer.eos_token_ids,
        )
        self.trainer = trainer

    def starts(self, rows: Sequence[dict[str, Any]]) -> list[Prompt]:
        """Prompts of rows of the data set, tokenized by TRL."""
        ids, images, _ = self.trainer._tokenize_prompts([row["prompt"] for row in rows])
        if images is not None:
            raise ValueError("prompt: it has images, but resets support only text; use text")
        return [
            Prompt(tuple(i), Example(str(n), row["prompt"], row))
            for n, (i, row) in enumerate(zip(ids, rows, strict=True))
        ]

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """`n` episodes from each prefix, scored in one batch; unscored in evaluation mode."""
        groups = super().rollout(prefixes, n, rng)
        if not self.trainer.model.training:
            return groups
        scored = iter(self._scored([episode for group in groups for episode in group]))
        return [[next(scored) for _ in group] for group in groups]

    def _scored(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Episodes with the weighted sum of the rewards; an unscored episode has not failed."""
        trainer = self.trainer
        rows = [episode.origin.start.example.data for episode in episodes]
        ids = [token_ids(episode.steps) for episode in episodes]
        scores = trainer._calculate_rewards(
            rows, [row["prompt"] for row in rows], self._messages(episodes, ids), ids
        )
        # TRL calls the functions again and logs their metrics then.
        trainer._pending_extra_logs.clear()
        trainer._pending_metrics.clear()
        offset = trainer.accelerator.process_index * len(ids)
        scores = scores[offset : offset + len(ids)].double().cpu()
        rewards = (scores * trainer.reward_weights.double().cpu()).nansum(dim=1).tolist()
        is_scored = (~scores.isnan()).any(dim=1).tolist()
        return [
            episode._replace(ret=reward, failed=scored and reward < self.task.success)
            for episode, reward, scored in zip(episodes, rewards, is_scored, strict=True)
        ]

    def _messages(self, episodes: Sequence[Episode], ids: list[list[int]]) -> list[Any]:
        """Completions in the format of TRL's reward functions."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        starts = [episode.origin.start for episode in episodes]
        if isinstance(starts[0].example.prompt, str):
            return list(texts)
        if any(getattr(self.tokenizer, f"response_{a}", None) for a in ("template", "schema")):
            from trl.chat_template_utils import parse_response

            return [
                [parse_response(self.tokenizer, i, prefix=list(start.ids), tools=None)]
                for i, start in zip(ids, starts, strict=True)
            ]
        return [[{"role": "assistant", "content": text}] for text in texts]
