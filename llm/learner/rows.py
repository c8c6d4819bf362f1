"""Groups as rows of tokens: what the trainer sees, blind to the algorithm that made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cpi.core.collect import Group
from envs.tabular import FloatArray
from llm.thoughts.simulator import is_cut, token_ids


class Row(NamedTuple):
    """A sequence to train on.

    Attributes
    ----------
    ids : array (T,), int64
        Prompt and completion.
    trained_from : int
        Tokens before this one are prompt or shared prefix, and get no gradient.
    trained_to : int
        One past the last trained token; T, or `trained_from` for a row that only counts.
    logprobs : array (trained,)
        The engine's, of the trained tokens; NaN where it sampled them after another prompt.
    advantage : float
    mask : array (trained_to − trained_from,) of bool, optional
        Which tokens of that range are trained; by default all.
    gamma : float
        Above 0, the loss is −f(π) A with f(π) = π/(π + gamma), for tokens of another policy; see
        `llm.learner.losses.LossInputs`.
    beta : float, optional
        Coefficient of the KL term; by default that of the loss.
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
        """Whether it can move the policy, where `beta` is the KL coefficient of the loss."""
        return bool(self.trained and (self.advantage or self.kl(beta)))

    def kl(self, beta: float) -> float:
        """Its coefficient of the KL term, where `beta` is that of the loss."""
        return beta if self.beta is None else self.beta


def make_rows(
    groups: Sequence[Group],
    advantages: Sequence[FloatArray],
    *,
    mask_truncated_completions: bool = False,
) -> list[Row]:
    """A row per episode, trained on what follows the prefix that its group shares.

    Parameters
    ----------
    groups : sequence of Group
    advantages : sequence of arrays (G,)
    mask_truncated_completions : bool
        Train on nothing of an episode that a limit has cut.
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
    """Rows padded on the right; B rows of at most T tokens, N of them trained on.

    Attributes
    ----------
    members : list of B int
        Which rows of the step they are.
    input_ids, attention_mask : Tensor (B, T)
    mask : Tensor (B, T), bool
        The trained tokens.
    logprobs : Tensor (N,)
        The engine's.
    row : Tensor (N,)
        Of each trained token, among the B.
    advantages, gammas : Tensor (B,)
    """

    members: list[int]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor
    row: torch.Tensor
    advantages: torch.Tensor
    gammas: torch.Tensor


def micro_batches(
    rows: Sequence[Row], index: Sequence[int], size: int, device: torch.device
) -> list[MicroBatch]:
    """The rows named by `index`, `size` at a time, rows of like length together."""
    return [pad(rows, members, device) for (members,) in deal(rows, index, size, 1)]


def no_rows(device: torch.device) -> MicroBatch:
    """A micro-batch of which nothing is trained on: it goes through the model and changes nothing.

    All processes of a job must go through it as often.
    """
    ids, none = torch.zeros((1, 2), dtype=torch.int64, device=device), torch.zeros(0, device=device)
    present, zero = torch.ones_like(ids), torch.zeros(1, device=device)
    return MicroBatch([], ids, present, ids.bool(), none, none.long(), zero, zero)


def deal(rows: Sequence[Row], index: Sequence[int], size: int, hands: int) -> list[list[list[int]]]:
    """Deal the rows named by `index` to processes: longest first, to who has the fewest tokens.

    Returns
    -------
    list of rounds, of `hands` lists of at most `size` rows
        In each round a process has one micro-batch, which may be empty.
    """
    dealt: list[list[int]] = [[] for _ in range(hands)]
    tokens = [0] * hands
    for i in sorted(index, key=lambda i: (-len(rows[i].ids), i)):
        least = tokens.index(min(tokens))
        dealt[least].append(i)
        tokens[least] += len(rows[i].ids)
    for hand in dealt:
        hand.sort(key=lambda i: (len(rows[i].ids), i))  # rows of like length together
    most = max(map(len, dealt))
    return [[hand[at : at + size] for hand in dealt] for at in range(0, most, size)]


def pad(rows: Sequence[Row], index: list[int], device: torch.device) -> MicroBatch:
    """The rows named by `index` as one micro-batch."""
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
