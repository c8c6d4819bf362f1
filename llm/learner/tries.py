"""Rows as token tries: every distinct prefix goes through the model once.

A trie knows tokens only, not the algorithm that made the rows: it finds GRPO's common prompt, a
reset's prefix within a fresh rollout, the branches of a tree, and the first turn of a second one.
Nodes are in depth-first order. The descendants of a node are therefore a range, and the attention
mask follows from where these ranges end (`llm.models.tree_attention`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llm.distributed.processes import gather
from llm.learner.rows import MicroBatch, Row, no_rows, pad
from llm.models.tree_attention import Tries, short_window, unsupported

Ints = NDArray[np.int64]

#: Width below which a token takes no less time; it does take less memory.
NARROW = 256


class Trie(NamedTuple):
    """Rows of tokens with every distinct prefix once.

    Attributes
    ----------
    ids : array (N,)
        Token of each node, in depth-first order.
    depth : array (N,)
        Number of tokens before it in its rows.
    end : array (N,)
        One past the last descendant: i is j or an ancestor of j if and only if i ≤ j < end[i].
    nodes : list of arrays (T,)
        For each row, the nodes of its tokens.
    """

    ids: Ints
    depth: Ints
    end: Ints
    nodes: list[Ints]

    def __len__(self) -> int:
        return len(self.ids)


def sort_rows(sequences: Sequence[Ints]) -> list[int]:
    """Order in which every row follows the one with which it shares the longest prefix."""
    keys = [np.asarray(ids, dtype=">i8").tobytes() for ids in sequences]
    return sorted(range(len(keys)), key=keys.__getitem__)


def shared_prefix(one: Ints, other: Ints) -> int:
    """Number of leading tokens that two rows have in common."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n


def build_trie(sequences: Sequence[Ints]) -> Trie:
    """The trie of at least one row, in any order; rows need not differ."""
    nodes: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(sequences)
    ids, depth, count = [], [], 0
    end = np.zeros(sum(map(len, sequences)), dtype=np.int64)
    last, path = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for row in sort_rows(sequences):
        tokens = np.asarray(sequences[row], dtype=np.int64)
        kept = shared_prefix(last, tokens)
        end[path[kept:]] = count  # no later row passes through these
        new = np.arange(count, count + len(tokens) - kept)
        ids.append(tokens[kept:])
        depth.append(np.arange(kept, len(tokens)))
        last, path, count = tokens, np.concatenate([path[:kept], new]), count + len(new)
        nodes[row] = path
    end[path] = count
    return Trie(np.concatenate(ids), np.concatenate(depth), end[:count], nodes)


class Pack(NamedTuple):
    """Indices of rows in one trie, and its number of tokens."""

    rows: list[int]
    tokens: int


def trie_cost(tokens: int, width: int, reach: int = 0) -> int:
    """Work of a forward pass on a trie of N tokens, and its memory, up to a factor: N (4 W + N).

    Parameters
    ----------
    tokens : int
        N.
    width : int
        W, from `llm.models.tree_attention.attention_width`.
    reach : int
        Length of the longest row. Shorter tries cost as much per token: equal limits are then also
        equal limits on the number of tokens.
    """
    return tokens * (4 * width + max(tokens, reach))


def joins(before: int, after: int, length: int, width: int, limit: int) -> bool:
    """Whether a row joins a trie that thereby grows from `before` to `after` tokens."""
    wide = max(width, NARROW)
    added = trie_cost(after, wide) - trie_cost(before, wide)
    return trie_cost(after, width) <= limit and added < trie_cost(length, wide)


def plan_packs(rows: Sequence[Row], index: Sequence[int], width: int, limit: int) -> list[Pack]:
    """Group the rows in `index` into packs, so that the work of a forward pass is small.

    A row joins the trie of the preceding one if that costs less than its own.

    Parameters
    ----------
    rows : sequence of Row
    index : sequence of int
    width, limit : int
        See `trie_cost`; its maximum for a trie with several rows.
    """
    packs: list[Pack] = []
    last = np.zeros(0, dtype=np.int64)
    for at in sort_rows([rows[i].ids for i in index]):
        ids = rows[index[at]].ids
        before = packs[-1].tokens if packs else 0
        after = before + len(ids) - shared_prefix(last, ids)
        if packs and joins(before, after, len(ids), width, limit):
            packs[-1] = Pack([*packs[-1].rows, index[at]], after)
        else:
            packs.append(Pack([index[at]], len(ids)))
        last = ids
    return packs


def shard_packs(
    packs: Sequence[Pack], width: int, reach: int, limit: int, ranks: int
) -> list[list[list[Pack]]]:
    """Shard packs over ranks: longest first, each to the rank with fewest tokens.

    Returns
    -------
    list of rounds, of `ranks` lists of packs
        In each round, a rank has one micro-batch. It costs at most `limit` with padding, or is a
        single pack, and may be empty. See `trie_cost` for `width` and `reach`.
    """
    shards: list[list[Pack]] = [[] for _ in range(ranks)]
    for one in sorted(packs, key=lambda pack: (-pack.tokens, pack.rows)):
        min(shards, key=lambda shard: sum(pack.tokens for pack in shard)).append(one)
    batches: list[list[list[Pack]]] = []
    for shard in shards:
        batches.append([])
        for one in reversed(shard):  # packs of like length together
            cost = trie_cost(one.tokens, width, reach)
            if batches[-1] and (len(batches[-1][-1]) + 1) * cost <= limit:
                batches[-1][-1].append(one)
            else:
                batches[-1].append([one])
    rounds = max(map(len, batches))
    return [[each[k] if k < len(each) else [] for each in batches] for k in range(rounds)]


def pack(rows: Sequence[Row], packs: Sequence[Pack], device: torch.device) -> MicroBatch:
    """The rows of some packs as one micro-batch, whose log-probs are those of separate rows."""
    if not packs:
        return no_rows(device)
    tries = [build_trie([rows[i].ids for i in one.rows]) for one in packs]
    longest = max(map(len, tries))
    # Padding ends right after itself.
    ids, depth = np.zeros((2, len(tries), longest), dtype=np.int64)
    end = np.tile(np.arange(1, longest + 1), (len(tries), 1))
    present = np.zeros_like(ids)
    mask = np.zeros(ids.shape, dtype=bool)
    source: list[Ints] = []
    targets: list[Ints] = []
    owner: list[Ints] = []
    members = [i for one in packs for i in one.rows]
    for at, (one, trie) in enumerate(zip(packs, tries, strict=True)):
        n = len(trie)
        ids[at, :n], depth[at, :n], end[at, :n], present[at, :n] = *trie[:3], 1
        for i, path in zip(one.rows, trie.nodes, strict=True):
            row = rows[i]
            trained = np.arange(row.trained_from, row.trained_to)
            trained = trained if row.mask is None else trained[row.mask]
            mask[at, path[trained]] = True
            source.append(at * longest + path[trained - 1])
            targets.append(row.ids[trained])
            owner.append(np.full(len(trained), len(owner)))

    def tensor(values: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values).to(device)

    return MicroBatch(
        members,
        tensor(ids),
        tensor(present),
        tensor(mask),
        tensor(np.concatenate([rows[i].logprobs for i in members]).astype(np.float32)),
        tensor(np.concatenate(owner)),
        tensor(np.array([rows[i].advantage for i in members], dtype=np.float32)),
        tensor(np.array([rows[i].gamma for i in members], dtype=np.float32)),
        Tries(
            tensor(ids),
            tensor(depth),
            tensor(end),
            tensor(np.concatenate(source)),
            tensor(np.concatenate(targets)),
        ),
    )


@torch.no_grad()
def why_not_shared(model: Any, logprobs: Callable[[MicroBatch], torch.Tensor]) -> str:
    """Why rows of a model cannot share prefixes; "" if they can.

    Four short rows go through the model, as a trie and as padded rows whose masks are the model's
    own, with a window of 3 tokens if it has windows: architectures differ, and a wrong mask raises
    no error. Rounding is measured: the same rows also go through the model one by one.

    All ranks must call it, and get the same answer: with different ones, their numbers of forward
    passes would differ.
    """
    reasons = gather(_why_not_shared(model, logprobs))
    return next(filter(None, reasons), "")


def _why_not_shared(model: Any, logprobs: Callable[[MicroBatch], torch.Tensor]) -> str:
    """`why_not_shared` on this rank."""
    if reason := unsupported(model):
        return reason
    texts = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 8], [1, 2, 3, 4, 5, 6, 1, 3], [2, 1, 5, 4]]
    rows = [
        Row(np.array(ids) % model.config.get_text_config().vocab_size, 1, len(ids), none, 0.0)
        for ids in texts
        for none in [np.zeros(len(ids) - 1)]
    ]
    device = next(model.parameters()).device
    index = list(range(len(rows)))
    packed = pack(rows, [Pack(index, 14)], device)
    was_training = model.training
    model.eval()
    try:
        with short_window(model):
            one, other = logprobs(packed), logprobs(pad(rows, index, device))
            alone = torch.cat([logprobs(pad(rows, [i], device)) for i in index])
    except Exception as error:  # of any kind: the model takes no masks of four dimensions
        return f"its forward pass refuses their masks ({type(error).__name__}: {error})"
    finally:
        model.train(was_training)
    difference, rounding = (float((each - other).abs().max()) for each in (one, alone))
    precision = max(torch.finfo(parameter.dtype).eps for parameter in model.parameters())
    # Rounding may vanish by chance. Tokens that see siblings were above in every untrained model.
    if not difference <= 4 * rounding + max(precision, 1e-4):
        return f"its log-probs differ by {difference:.2g} nats from those of separate rows"
    return ""
