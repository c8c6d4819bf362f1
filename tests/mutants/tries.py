"""Faults of shared prefixes."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

TESTS = ("tests/llm/learner/test_tries.py",)

TRIES = (
    Mutant(
        "llm/learner/tries.py",
        "positions count nodes",
        "depth.append(np.arange(kept, len(tokens)))",
        "depth.append(new)",
    ),
    Mutant(
        "llm/learner/tries.py",
        "the range of the first node of a suffix goes on",
        "end[path[kept:]] = count  # no later row passes through these",
        "end[path[kept + 1 :]] = count",
    ),
    Mutant(
        "llm/learner/tries.py",
        "the first token of a suffix follows the node before it in the order",
        "source.append(at * longest + path[trained - 1])",
        "source.append(at * longest + path[trained] - 1)",
    ),
    Mutant(
        "llm/learner/tries.py",
        "equal rows have one advantage",
        "owner.append(np.full(len(trained), len(owner)))",
        "owner.append(np.full(len(trained), one.rows.index(one.rows[0])))",
    ),
    Mutant(
        "llm/learner/tries.py",
        "a mask of trained tokens is ignored",
        "trained = trained if row.mask is None else trained[row.mask]",
        "pass",
    ),
    Mutant(
        "llm/learner/tries.py",
        "the second trie of a micro-batch reads the first",
        "at * longest + path[trained - 1]",
        "path[trained - 1]",
    ),
    Mutant(
        "llm/learner/tries.py",
        "padding attends to nothing",
        "end = np.tile(np.arange(1, longest + 1)",
        "end = np.tile(np.arange(longest)",
    ),
    Mutant(
        "llm/learner/tries.py",
        "a trie may have as many tokens as the separate rows, whatever its mask takes",
        "return trie_cost(after, width) <= limit and",
        "return after * trie_cost(length, width) <= limit * length and",
    ),
    Mutant(
        "llm/learner/tries.py",
        "many short rows take more memory than the longest rows that are allowed",
        "max(tokens, reach)",
        "tokens",
    ),
    Mutant(
        "llm/models/tree_attention.py",
        "eager attention costs as much as any other",
        "int(text.hidden_size) // (2 * int(text.num_attention_heads))",
        "int(text.hidden_size)",
        TESTS,
    ),
    Mutant(
        "llm/learner/tries.py",
        "the probe compares tries with tries",
        "logprobs(pad(rows, index, device))",
        "logprobs(pack(rows, [Pack([i], len(texts[i])) for i in index], device))",
    ),
    Mutant(
        "llm/learner/tries.py",
        "wrong log-probs pass the probe",
        "if not difference <= 4 * rounding + max(precision, 1e-4):",
        "if not difference <= 100:",
    ),
    Mutant(
        "llm/learner/tries.py",
        "the probe allows for as much rounding in bfloat16 as an untrained model's siblings make",
        "4 * rounding + max(precision, 1e-4)",
        "4 * rounding + 12 * max(precision, 1e-4)",
    ),
    Mutant(
        "llm/learner/tries.py",
        "the probe guesses the rounding",
        "4 * rounding + max(precision, 1e-4)",
        "max(precision, 1e-4)",
    ),
    Mutant(
        "llm/learner/tries.py",
        "each rank heeds its own probe",
        "reasons = gather(_why_not_shared(model, logprobs))",
        "reasons = [_why_not_shared(model, logprobs)]",
        ("tests/llm/distributed/test_processes.py",),
    ),
    Mutant(
        "llm/models/tree_attention.py",
        "tokens see their siblings",
        "(node[None, :, None] >= node) & (node[None, :, None] < end[:, None, :])",
        "(node[None, :, None] >= node).expand(len(end), -1, -1)",
        TESTS,
    ),
    Mutant(
        "llm/models/tree_attention.py",
        "windows count nodes",
        "depth[:, :, None] < depth[:, None, :] + window",
        "node[None, :, None] < node + window",
        TESTS,
    ),
    Mutant(
        "llm/models/tree_attention.py",
        "all layers have the window",
        '"full_attention": lambda: mask(None)',
        '"full_attention": lambda: mask(window)',
        TESTS,
    ),
)
