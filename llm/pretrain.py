"""`python -m llm.pretrain`: a base model for chain reasoning with a known error rate.

The model is trained by supervised learning on traces of a noisy reasoner, as in
`ChainTask.noisy_policy`. The reasoner gets each fact (an operation on a value) wrong with a known
rate. The wrong value of a fact is always the same, so no single change of behaviour corrects all
errors.

Other texts teach localization: a wrong trace, `?`, a check of each step up to the first wrong one,
and the number of that step. So the base model can already localize errors, as instruct models can,
and no ground truth enters reinforcement learning.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.reasoning import ChainTask, IntArray
from llm.chain.recipe import PretrainConfig
from llm.common.commands import leave, prepare, quiet_transformers, run_command
from llm.tasks.chain import QUESTION

if TYPE_CHECKING:
    import torch

PROG = "python -m llm.pretrain"

#: Share of the steps during which the learning rate rises.
WARMUP = 0.05


def sample_text(
    chain: ChainTask,
    length: int,
    error_rate: float,
    wrong: IntArray,
    localization: float,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """Draw a prompt and its target: a trace, or the localization of the first error of a wrong one.

    Traces that are targets are not selected by correctness, so their errors have the known rate.
    """
    localizes = rng.random() < localization
    while True:
        problem = chain.sample(rng, length)
        values, value = [], problem.start
        for operation in problem.operations:
            fact = chain.operations.index(operation), value
            value = int(wrong[fact] if rng.random() < error_rate else chain.results[fact])
            values.append(value)
        solution = chain.render_steps(problem, values)
        if not localizes:
            return chain.render(problem), solution
        if (first := chain.first_error(problem, values)) is not None:
            before = [problem.start, *values]
            checks = [
                chain.apply(operation, value)
                for operation, value in zip(problem.operations[:first], before, strict=False)
            ]
            reply = "".join(f"{value}\n" for value in checks) + f"\\boxed{{{first}}}"
            return f"{chain.render(problem)}{solution}\n{QUESTION}", reply


def pretrain(
    model: Any,
    tokenizer: Any,
    config: PretrainConfig,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Any:
    """Train `model` on texts of the noisy reasoner, drawn anew at each step; returns the model.

    Parameters
    ----------
    model, tokenizer
        From `llm.chain.model`.
    config : PretrainConfig
    progress : function of (step, loss)
    """
    import torch
    from transformers import get_cosine_schedule_with_warmup

    from llm.models.logprobs import completion_logprobs

    chain = ChainTask(config.modulus, config.operations)
    rng = np.random.default_rng(config.seed)
    wrong = chain.wrong_values(config.seed)
    shortest, longest = config.lengths
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01)
    warmup = round(WARMUP * config.steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, config.steps)
    model.train()
    for step in range(1, config.steps + 1):
        lengths = rng.integers(shortest, longest + 1, size=config.batch)
        texts = [
            sample_text(chain, int(n), config.error_rate, wrong, config.localization, rng)
            for n in lengths
        ]
        loss = -completion_logprobs(model, *_pad(tokenizer, texts)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, loss.item())
    return model.eval()


def _pad(
    tokenizer: Any, texts: Sequence[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and mask of the target tokens, each of shape (B, T)."""
    import torch

    pairs = [(tokenizer(a).input_ids, tokenizer(b).input_ids) for a, b in texts]
    longest = max(len(a) + len(b) for a, b in pairs)
    ids = torch.zeros((len(pairs), longest), dtype=torch.long)
    present, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (a, b) in enumerate(pairs):
        ids[row, : len(a) + len(b)] = torch.tensor([*a, *b])
        present[row, : len(a) + len(b)] = 1
        mask[row, len(a) : len(a) + len(b)] = True
    return ids, present, mask


def save_base(model: Any, tokenizer: Any, config: PretrainConfig, folder: Path) -> None:
    """Write model, tokenizer, and a recipe with software versions and a checksum of the weights.

    Weights are rounded to bfloat16, which halves the file; loading converts them to float32.
    """
    import torch

    from llm.runs.folder import environment

    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    current = environment()
    recipe = {
        **asdict(config),
        "commit": current["commit"],
        "versions": current["versions"],
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    del recipe["output"]
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    checked: list[PretrainConfig] = []
    if code := run_command(PROG, lambda: _check(argv, checked)):
        return code
    _pretrain(checked[0])
    return 0


def _check(argv: Sequence[str] | None, checked: list[PretrainConfig]) -> int:
    """Parse the recipe and make its folder; adds the recipe to `checked`."""
    from llm.config.command_line import parse

    config = parse(PretrainConfig, argv, PROG, "Pre-train a base model for chain reasoning.")
    ChainTask(config.modulus, config.operations)
    Path(config.output).mkdir(parents=True, exist_ok=True)
    checked.append(config)
    return 0


def _pretrain(config: PretrainConfig) -> None:
    """Train and save the model."""
    from rich.progress import Progress

    from cpi.reporting.tables import console
    from llm.chain.model import chain_model, chain_tokenizer

    quiet_transformers()
    folder = Path(config.output)
    chain = ChainTask(config.modulus, config.operations)
    tokenizer = chain_tokenizer(chain, config.lengths[1] + 1)
    model = chain_model(
        tokenizer, hidden_size=config.hidden_size, layers=config.layers, seed=config.seed
    )
    losses: list[float] = []
    out = console(sys.stderr)
    with Progress(*Progress.get_default_columns(), console=out, disable=not out.is_terminal) as bar:
        task = bar.add_task("pre-training", total=config.steps)

        def progress(step: int, loss: float) -> None:
            losses.append(loss)
            recent = f"loss {np.mean(losses[-50:]):.3f}"
            bar.update(task, completed=step, description=recent)
            if not out.is_terminal and step % max(1, config.steps // 10) == 0:
                print(f"step {step}/{config.steps}  {recent}", file=sys.stderr, flush=True)

        pretrain(model, tokenizer, config, progress)
    save_base(model, tokenizer, config, folder)
    print(f"{folder}: {model.num_parameters():,} parameters, loss {np.mean(losses[-50:]):.3f}")


if __name__ == "__main__":
    leave(main())
