"""Planned against measured memory and time on a GPU: `python -m tests.bench.llm_gpu SHAPE [FLAGS]`.

SHAPE is qwen3-1.7b or qwen3-8b: a model of the published shape with random weights. Problems are
random words with random rewards (`tests.bench.llm_world`). Nothing is downloaded, and every group
has a signal. Memory and time equal those of a real run with rows of this length. Settings are the
paper's (preset olmo3-7b-olympiads-srpo). FLAGS, those of `llm.train`, override them:

    python -m tests.bench.llm_gpu qwen3-8b --engine transformers --steps 3 --prompts_per_step 8 \\
        --sampling.max_completion_length 512 --localization.max_tokens 128

The first step warms up; times are means of the other steps. Memory is the peak of torch's
allocations, which excludes an engine in a separate process. The last line is JSON.

On an H200, one step of qwen3-8b has completed; the tables have not been reached yet.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

PRESET = "olmo3-7b-olympiads-srpo"

#: Number of problems, and of words in each.
PROBLEMS, PROMPT_TOKENS = 64, 128

_QWEN3 = {"head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936}

#: Published shapes, by name.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-1.7b": _QWEN3
    | {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "qwen3-8b": _QWEN3
    | {
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in SHAPES:
        print(__doc__)
        return 0 if words in (["-h"], ["--help"]) else 2
    import torch
    import transformers

    if not torch.cuda.is_available():
        print("python -m tests.bench.llm_gpu: torch finds no GPU", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as scratch:
        results = measure(words[0], words[1:], Path(scratch))
    show(results)
    print(json.dumps(results))
    return 0


def measure(shape: str, flags: Sequence[str], scratch: Path) -> dict[str, Any]:
    """Bytes and seconds, planned and measured."""
    import torch

    from llm.config.train import parse_config
    from llm.planning.demand import Lengths
    from llm.planning.footprint import Footprint, load_architecture
    from llm.planning.hardware import DryRunOptions, find
    from llm.planning.memory_plan import PHASES, plan_memory
    from llm.planning.step_cost import step_cost
    from llm.runs.folder import environment

    model = make_model(shape, scratch / shape)
    task = {"prompts": PROBLEMS, "length": PROMPT_TOKENS}
    config = parse_config(
        [
            f"--config={PRESET}",
            f"--model={model}",
            "--task=tests.bench.llm_world:Words",
            f"--task_args={json.dumps(task)}",
            f"--output={scratch / 'run'}",
            "--evaluation.steps=0",
            "--save_steps=1000000",
            "--rollout_steps=0",
            *flags,
        ],
        "llm_gpu",
        "",
        "",
    )
    hardware = find(DryRunOptions(), config.bf16)
    footprint = Footprint(load_architecture(model), config.lora, True)
    lengths = Lengths(PROMPT_TOKENS)
    plan = plan_memory(config, footprint, hardware, lengths)
    cost = step_cost(config, footprint, hardware, lengths)
    torch.cuda.empty_cache()
    steps, peaks = run(config)
    timed = steps[1:] or steps
    return {
        "environment": environment(),
        "parameters": footprint.parameters,
        "trained": footprint.trained,
        "tflops": hardware.flops / 1e12,
        "planned": dict(zip(PHASES, plan.totals(), strict=True)),
        "seen": peaks,
        "reserved": torch.cuda.max_memory_reserved(),
        "planned_seconds": {name: most for name, (_, most) in cost.seconds.items()},
        "seconds": {
            "generate": mean(sum(s.get(f"time/{k}", 0.0) for k in GENERATING) for s in timed),
            "train": mean(s["time/train"] for s in timed),
            "step": mean(s["step_time"] for s in timed),
        },
        "steps": steps,
    }


#: Stages of a step that generate tokens.
GENERATING = ("generate", "localize", "reset", "retry")


def make_model(shape: str, folder: Path) -> str:
    """Save a model with random weights; returns its folder."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    from llm.models.policy import default_device
    from tests.bench.llm_world import tokenizer

    words = SHAPES[shape]["vocab_size"] - 1  # the last one is EOS, which is almost never sampled
    config = Qwen3Config(
        **SHAPES[shape],
        max_position_embeddings=40_960,
        # Layers of gain 1/2: with larger gains, bfloat16 rounding grows to tenths of a nat.
        initializer_range=0.5 / SHAPES[shape]["hidden_size"] ** 0.5,
        bos_token_id=None,
        eos_token_id=words,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with default_device():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return str(folder)


def run(config: Any) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Train; returns the metrics of each step and the peak bytes of each phase."""
    import torch

    from llm.common.progress import Reporter
    from llm.train.trainer import Trainer

    peaks: dict[str, int] = {}

    def record_peak(phase: str) -> None:
        peaks[phase] = max(peaks.get(phase, 0), torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def peak_of(phase: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats()
        yield
        record_peak(phase)

    class MeasuredTrainer(Trainer):
        def batch(self, step: int) -> Any:
            with peak_of("generate"):
                return super().batch(step)

        def sync(self) -> None:
            with peak_of("sync"):
                super().sync()

    trainer = MeasuredTrainer(config, Reporter(config.steps))
    update, optimizer = trainer.learner.updater._step, trainer.learner.optimizer

    def step(*args: Any) -> Any:
        with peak_of("backward"):
            return update(*args)

    trainer.learner.updater._step = step  # type: ignore[method-assign, assignment]
    optimizer.register_step_pre_hook(lambda *_: record_peak("backward"))
    optimizer.register_step_post_hook(lambda *_: record_peak("step"))
    try:
        return trainer.run(), peaks
    finally:
        trainer.close()


def show(results: dict[str, Any]) -> None:
    """Print the tables of memory and time."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    gib = 2**30
    memory = Table(title="memory, GiB", title_justify="left", box=SIMPLE_HEAD)
    seconds = Table(title="seconds", title_justify="left", box=SIMPLE_HEAD)
    for table in (memory, seconds):
        for heading in ("", "planned", "seen", "seen / planned"):
            table.add_column(heading, justify="right" if heading else "left")
    for phase, planned in results["planned"].items():
        seen = results["seen"][phase]
        memory.add_row(phase, *(f"{b / gib:.2f}" for b in (planned, seen)), f"{seen / planned:.3f}")
    for name in ("generate", "train"):
        planned, seen = results["planned_seconds"][name], results["seconds"][name]
        seconds.add_row(name, f"{planned:.1f}", f"{seen:.1f}", f"{seen / planned:.2f}")
    console = Console(width=100)
    console.print(f"{results['environment']['device']}, {results['parameters']:,} parameters")
    console.print(memory, seconds)
    console.print(f"kept by torch's allocator: {results['reserved'] / gib:.2f} GiB")


if __name__ == "__main__":
    raise SystemExit(main())
