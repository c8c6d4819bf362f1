"""What the mask of a shared prefix does to the gradient of reset groups, in an on-policy step.

Continuations after a reset share a prefix, on which nothing is trained. Were it trained on, it
would get Σ_i w_i Â_i ∇ log π(prefix), and the advantages of a group sum to 0: nothing, if all of
its tokens have the same weight w, and something if a rollout's tokens weigh by its length.
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

#: Of a token in the loss: the same for all, or by the length of its rollout.
LOSS_TYPES: tuple[LossType, ...] = ("dapo", "grpo")


def gradients(seed: int) -> dict[str, Any]:
    """Gradients of SRPO's first reset groups with a prefix, with it in the loss and without.

    Returns
    -------
    dict
        "tokens", the share of tokens in the loss that remain with the mask; and for each loss type
        the "cosine" of both gradients and the "length" of the masked one over the other's.
    """
    from rich.console import Console
    from transformers.utils import logging

    from cpi.core.advantages import group_advantages
    from llm.algorithms.resets import ResetAlgorithm
    from llm.common.progress import Reporter
    from llm.common.random_streams import COLLECT, stream
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
        assert isinstance(algorithm, ResetAlgorithm)
        found, _, _ = algorithm.collect(1, indices, stream(seed, 1, COLLECT))
        groups = [group for group in found if group.prefix.length]
        masked = make_rows(groups, group_advantages([group.returns for group in groups]))
        whole = []
        rows = iter(masked)
        for group in groups:
            prefix = np.concatenate([thought.logprobs for thought in group.prefix.steps])
            for _ in group.episodes:
                row = next(rows)
                logprobs = np.concatenate([prefix, row.logprobs])
                start = len(group.prefix.start.ids)
                whole.append(row._replace(trained_from=start, logprobs=logprobs))
        told: dict[str, Any] = {
            "tokens": sum(row.trained for row in masked) / sum(row.trained for row in whole)
        }
        for loss_type in LOSS_TYPES:
            a, b = (gradient(trainer, rows, loss_type) for rows in (masked, whole))
            cosine = (a @ b / (a.norm() * b.norm())).item()
            told[loss_type] = {"cosine": cosine, "length": (a.norm() / b.norm()).item()}
        trainer.close()
    return told


def gradient(trainer: Trainer, rows: Sequence[Row], loss_type: LossType) -> Tensor:
    """Of the loss of one on-policy step on some rows, by all weights, in float64."""
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
    """Over seeds: the least cosine of each loss type, and mean lengths."""
    found = [gradients(seed) for seed in seeds]
    of_types: dict[str, Any] = {
        name: {
            "least_cosine": min(each[name]["cosine"] for each in found),
            "length": float(np.mean([each[name]["length"] for each in found])),
        }
        for name in LOSS_TYPES
    }
    return {"seeds": len(found), "tokens": float(np.mean([e["tokens"] for e in found])), **of_types}
