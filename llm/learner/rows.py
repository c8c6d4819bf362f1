"""Rows of tokens to train on, and their micro-batches; independent of the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cpi.core.collect import Group
from envs.tabular import FloatArray
from llm.thoughts.simulator import is_cut, token_ids


class Row(NamedTuple):
    """A sequence of tokens to train on.

    Attributes
    ----------
    ids : array (T,), int64
        Prompt and completion.
    trained_from : int
        Index of the first token after the prompt and shared prefix, which get no gradient.
    trained_to : int
        One past the last trained token. T, or `trained_from` to train on nothing.
    logprobs : array (trained,)
        The engine's log-probs of trained tokens; NaN if it sampled them after another prompt.
    advantage : float
    mask : array (trained_to − trained_from,) of bool, optional
        Trained tokens in that range; by default all.
    gamma : float
        Above 0, the row is of another policy and its loss is −f(π) A with f(π) = π/(π + gamma);
        see `llm.learner.losses.LossInputs`.
    beta : float, optional
        Coefficient of the row's KL term; by default the coefficient of the loss.
    """

    ids: NDArray[np.int64]
    trained_from: int
    trained_to: int
    logprobs: NDArray[np.float64]
    advantage: float
    mask: NDArray[np.bool_] | None = None
    gamma: float = 0.0
    beta: float | None = None

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return self.trained_to - self.trained_from if self.mask is None else int(self.mask.sum())

    def moves(self, beta: float) -> bool:
        """Whether the row can move the policy; `beta` is the KL coefficient of the loss."""
        return bool(self.trained and (self.advantage or self.kl(beta)))

    def kl(self, beta: float) -> float:
        """KL coefficient of the row; `beta` is the coefficient of the loss."""
        return beta if self.beta is None else self.beta


def make_rows(
    groups: Sequence[Group],
    advantages: Sequence[FloatArray],
    *,
    mask_truncated_completions: bool = False,
) -> list[Row]:
    """One row per episode, trained on the suffix after the shared prefix of its group.

    Parameters
    ----------
    groups : sequence of Group
    advantages : sequence of arrays (G,)
    mask_truncated_completions : bool
        Do not train on episodes that were cut at a limit.
    """
    rows = []
    for group, values in zip(groups, advantages, strict=True):
        start = group.prefix.start
        kept = len(start.ids) + len(token_ids(group.prefix.steps))
        for episode, advantage in zip(group.episodes, values, strict=True):
            ids = np.array([*start.ids, *token_ids(episode.steps)], dtype=np.int64)
            suffix = episode.steps[group.prefix.length :]
            masked = mask_truncated_completions and is_cut(episode)
            rows.append(
                Row(
                    ids,
                    kept,
                    kept if masked else len(ids),
                    np.concatenate([t.logprobs for t in suffix])[: 0 if masked else None],
                    float(advantage),
                )
            )
    return rows


class MicroBatch(NamedTuple):
    """B rows, padded on the right to T tokens, with N trained tokens in all.

    Attributes
    ----------
    members : list of B int
        Indices of the rows in the step.
    input_ids, attention_mask : Tensor (B, T)
        With `tries`, a line is not a row but the nodes of a trie.
    mask : Tensor (B, T), bool
        The trained tokens.
    logprobs : Tensor (N,)
        The engine's log-probs of the trained tokens.
    row : Tensor (N,)
        Row of each trained token, in 0, …, B − 1.
    advantages, gammas : Tensor (B,)
    tries : llm.learner.tries.Tries, optional
        If the rows share their prefixes.
    """

    members: list[int]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    row: torch.Tensor
    advantages: torch.Tensor
    gammas: torch.Tensor
    tries: Any = None


def micro_batches(
    rows: Sequence[Row], index: Sequence[int], size: int, device: torch.device
) -> list[MicroBatch]:
    """Micro-batches of at most `size` of the rows in `index`, rows of like length together."""
    return [pad(rows, members, device) for (members,) in shard_micro_batches(rows, index, size, 1)]


def no_rows(device: torch.device) -> MicroBatch:
    """A micro-batch without trained tokens: a forward pass on it changes nothing.

    It fills up ranks with fewer micro-batches, since all ranks must make equally many passes.
    """
    ids, none = torch.zeros((1, 2), dtype=torch.int64, device=device), torch.zeros(0, device=device)
    present, zero = torch.ones_like(ids), torch.zeros(1, device=device)
    return MicroBatch([], ids, present, ids.bool(), none, none.long(), zero, zero)


def shard_micro_batches(
    rows: Sequence[Row], index: Sequence[int], size: int, ranks: int
) -> list[list[list[int]]]:
    """Shard the rows in `index` over ranks: longest first, each to the rank with fewest tokens.

    Returns
    -------
    list of rounds, of `ranks` lists of at most `size` rows
        In each round, a rank has one micro-batch, which may be empty.
    """
    shards: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for i in sorted(index, key=lambda i: (-len(rows[i].ids), i)):
        least = tokens.index(min(tokens))
        shards[least].append(i)
        tokens[least] += len(rows[i].ids)
    for shard in shards:
        shard.sort(key=lambda i: (len(rows[i].ids), i))  # rows of like length together
    longest = max(map(len, shards))
    return [[shard[at : at + size] for shard in shards] for at in range(0, longest, size)]


def pad(rows: Sequence[Row], index: list[int], device: torch.device) -> MicroBatch:
    """The rows in `index` as one micro-batch."""
    if not index:
        return no_rows(device)
    longest = max(len(rows[i].ids) for i in index)
    ids = np.zeros((len(index), longest), dtype=np.int64)
    present = np.zeros_like(ids)
    mask = np.zeros((len(index), longest), dtype=bool)
    for at, i in enumerate(index):
        row = rows[i]
        ids[at, : len(row.ids)] = row.ids
        present[at, : len(row.ids)] = 1
        mask[at, row.trained_from : row.trained_to] = True if row.mask is None else row.mask
    return MicroBatch(
        index,
        torch.from_numpy(ids).to(device),
        torch.from_numpy(present).to(device),
        torch.from_numpy(mask).to(device),
        torch.tensor(
            np.concatenate([rows[i].logprobs for i in index]), dtype=torch.float32, device=device
        ),
        torch.from_numpy(mask.nonzero()[0]).to(device),
        torch.tensor([rows[i].advantage for i in index], dtype=torch.float32, device=device),
        torch.tensor([rows[i].gamma for i in index], dtype=torch.float32, device=device),
    )
