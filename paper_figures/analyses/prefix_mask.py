"""Effect of the shared-prefix mask on the gradient of reset groups, in an on-policy step.

Continuations after a reset share a prefix, and the loss masks it. Without the mask the prefix would
contribute Σ_i w_i Â_i ∇ log π(prefix) to the gradient. The advantages Â_i of a group sum to 0. The
sum therefore vanishes if all tokens have the same weight w. It does not vanish if the weight
depends on the length of the rollout.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.analyses.chain_runs import RUN, chain_config

if TYPE_CHECKING:
    from torch import Tensor

    from llm.learner.options import LossType
    from llm.learner.rows import Row
    from llm.train.trainer import Trainer

#: Token weights in the loss: equal (dapo), or by the length of the rollout (grpo).
LOSS_TYPES: tuple[LossType, ...] = ("dapo", "grpo")


def gradients(seed: int) -> dict[str, Any]:
    """Compare gradients with and without the prefix mask, on SRPO's first reset groups.

    Only groups with a prefix count.

    Returns
    -------
    dict
        "tokens": share of the tokens in the loss that the mask keeps. For each loss type, "cosine"
        between the two gradients, and "length" of the masked gradient over the other.
    """
    from rich.console import Console
    from transformers.utils import logging

    from cpi.core.advantages import group_advantages
    from llm.algorithms.plan_and_rule import PlanAndRuleAlgorithm
    from llm.common.progress import Reporter
    from llm.common.random_streams import COLLECT, generator
    from llm.learner.rows import make_rows
    from llm.train.prompt_sampler import prompt_indices
    from llm.train.trainer import Trainer

    logging.disable_progress_bar()
    config = chain_config(RUN, seed)
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, output=folder, resume="never")
        trainer = Trainer(config, Reporter(1, Console(quiet=True)))
        problems = len(trainer.problems.train)
        indices = prompt_indices(seed, 1, config.prompts_per_step, problems)
        algorithm = trainer.algorithm
        assert isinstance(algorithm, PlanAndRuleAlgorithm)
        collection, _, _ = algorithm.collect(1, indices, generator(seed, 1, COLLECT))
        groups = [group for group in collection if group.prefix.length]
        masked = make_rows(groups, group_advantages([group.returns for group in groups]))
        unmasked = []
        rows = iter(masked)
        for group in groups:
            prefix = np.concatenate([thought.logprobs for thought in group.prefix.steps])
            for _ in group.episodes:
                row = next(rows)
                logprobs = np.concatenate([prefix, row.logprobs])
                start = len(group.prefix.start.ids)
                unmasked.append(row._replace(trained_from=start, logprobs=logprobs))
        comparison: dict[str, Any] = {
            "tokens": sum(row.trained for row in masked) / sum(row.trained for row in unmasked)
        }
        for loss_type in LOSS_TYPES:
            a, b = (gradient(trainer, rows, loss_type) for rows in (masked, unmasked))
            cosine = (a @ b / (a.norm() * b.norm())).item()
            comparison[loss_type] = {"cosine": cosine, "length": (a.norm() / b.norm()).item()}
        trainer.close()
    return comparison


def gradient(trainer: Trainer, rows: Sequence[Row], loss_type: LossType) -> Tensor:
    """Loss gradient of one on-policy step, all parameters in one float64 vector."""
    import torch

    from llm.learner.losses import LossInputs, loss_weights, policy_loss
    from llm.learner.options import LossConfig
    from llm.learner.rows import pad

    learner = trainer.learner
    learner.policy.zero_grad()
    batch = pad(rows, list(range(len(rows))), learner.updater.device)
    weights = loss_weights(torch.tensor([row.trained for row in rows]), loss_type)
    inputs = LossInputs(
        logprobs=learner.logprobs(batch),
        old_logprobs=None,
        sampling_logprobs=None,
        ref_logprobs=None,
        advantages=batch.advantages,
        row=batch.row,
        weights=weights[batch.row],
    )
    policy_loss(inputs, LossConfig(loss_type=loss_type)).loss.backward()
    return torch.cat(
        [p.grad.double().flatten() for p in learner.policy.parameters() if p.grad is not None]
    )


def summary(seeds: Sequence[int]) -> Mapping[str, Any]:
    """Over seeds: the least cosine and the mean length of each loss type."""
    by_seed = [gradients(seed) for seed in seeds]
    by_loss_type: dict[str, Any] = {
        name: {
            "least_cosine": min(each[name]["cosine"] for each in by_seed),
            "length": float(np.mean([each[name]["length"] for each in by_seed])),
        }
        for name in LOSS_TYPES
    }
    return {
        "seeds": len(by_seed),
        "tokens": float(np.mean([e["tokens"] for e in by_seed])),
        **by_loss_type,
    }
