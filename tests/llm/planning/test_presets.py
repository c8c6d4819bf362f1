"""Every preset: its settings, the memory that it takes, its dry run, and a run of some."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm.config.presets import presets
from llm.config.train import parse_config
from llm.planning.demand import Lengths
from llm.planning.footprint import Footprint, load_architecture
from llm.planning.hardware import GIB, Hardware
from llm.planning.memory_plan import plan_memory
from llm.train.__main__ import main
from tests.conftest import REAL_MODEL
from tests.llm.architectures import write
from tests.llm.sandboxes import skip_without_sandbox
from tests.llm.small import byte_tokenizer
from tests.llm.tiny_models import save, tiny_qwen2

EIGHT = Hardware(8, 80 * GIB, "cuda", 312e12, here=False)
SMOLLM2 = [name for name in presets() if name.startswith("smollm2")]  # three times three
WORLDS = [f"{m}-{p}" for p in ("olympiads", "lcb-medium") for m in ("olmo3-7b", "qwen2.5-14b")]
METHODS = [name[len(WORLDS[0]) + 1 :] for name in presets() if name.startswith(WORLDS[0])]
#: Each method, each pair of a model and problems, the settings of a pair, and what is not composed.
DRY_RUNS = {f"{WORLDS[i % 4]}-{method}" for i, method in enumerate(METHODS)} | {
    "chain", "qwen2.5-1.5b-gsm8k-srpo", "olmo3-7b-olympiads-srpo", "olmo3-7b-lcb-medium-score",
}  # fmt: skip
ONE = Hardware(1, 24 * GIB, "cuda", 71e12, here=False)


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def traced() -> Iterator[Callable[..., Footprint]]:
    """Presets share models and adapters: what a model takes is traced once for all of them."""
    known: dict[str, Footprint] = {}

    def footprint(architecture: Any, *more: Any) -> Footprint:
        key = repr((architecture.to_json_string(), more))
        if key not in known:
            known[key] = Footprint(architecture, *more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm.planning.dry_run.Footprint", footprint)
        yield footprint


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in presets() if name != "chain" and name not in SMOLLM2]
)
def test_presets_fit_the_hardware_that_they_name(
    name: str, architectures: dict[str, Path], traced: Callable[..., Footprint]
) -> None:
    config = parse_config([f"--config={name}"], "prog")
    architecture = load_architecture(str(architectures[config.model.partition("/")[2]]))
    footprint = traced(architecture, config.lora, True)
    small = "1.5b" in name
    plan = plan_memory(config, footprint, ONE if small else EIGHT, Lengths(1024))
    assert plan.problems == []
    assert max(plan.totals()) > (5 if small else 40) * GIB
    quarter = dataclasses.replace(EIGHT, memory=EIGHT.memory // 4)
    assert small or plan_memory(config, footprint, quarter, Lengths(1024)).problems


@pytest.mark.parametrize("name", [name for name in presets() if "7b" in name or "14b" in name])
def test_presets_of_the_paper_differ_in_model_task_and_method_alone(name: str) -> None:
    config = parse_config([f"--config={name}"], "prog")
    models = {"olmo3-7b": "allenai/Olmo-3-7B-Instruct", "qwen2.5-14b": "Qwen/Qwen2.5-14B-Instruct"}
    assert name.startswith(next(short for short, long in models.items() if long == config.model))
    assert (config.lora.r, config.lora.alpha, config.lora.target_modules) == (64, 64, "all-linear")
    leaves = math.prod(config.spo_tree.branches)
    rollouts = leaves if config.algorithm == "spo_tree" else config.group_plan().rollouts
    assert config.prompts_per_step * rollouts == 32 * 8
    assert (config.optimizer.learning_rate, config.optimizer.lr_scheduler_type) == (
        5e-5,
        "constant",
    )
    assert (config.sampling.temperature, config.sampling.top_p) == (0.7, 0.95)
    assert (config.loss.beta, config.seed) == (0.0, 42)
    assert config.task == ("numina_olympiads" if "olympiads" in name else "livecodebench_v6_medium")
    method = config.algorithm.replace("_", "-")
    assert name.endswith(method) or (method == "grpo" and name.endswith(("dr-grpo", "dapo")))
    assert (config.loss.loss_type == "dr_grpo") == name.endswith("dr-grpo")
    assert bool(config.dynamic_sampling) == name.endswith("dapo")
    assert (config.loss.epsilon_high == 0.28) == name.endswith("dapo")
    if config.algorithm == "score":
        assert config.score.stage1_steps == config.steps // 2


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", sorted(DRY_RUNS))
def test_presets_have_a_dry_run(
    name: str,
    architectures: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{place}.HF_HUB_OFFLINE", True)
    argv = [f"--config={name}", "--dry-run"]
    if name != "chain":
        folder = architectures[parse_config(argv[:1], "prog").model.partition("/")[2]]
        gpus, memory = (1, 24) if "1.5b" in name else (8, 80)
        argv += [f"--model={folder}", f"--dry_run.gpus={gpus}", f"--dry_run.gpu_memory={memory}"]
    if "lcb" in name:
        skip_without_sandbox()
        argv += ["--task_args.verifier_args.allow_code=true"]
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert "checked: settings" in told
    if name != "chain":
        assert "not checked: the problems (" in told
    if name == "olmo3-7b-olympiads-srpo":  # without weights or network, as all of them
        assert "parameters: 7,457,918,976, of which 159,907,840 are trained" in told
        assert "for all processes together: 113.5 GiB to load the model, 111.3 GiB for" in told


def test_presets_of_smollm2_differ_in_problems_and_method_alone() -> None:
    configs = {
        name: dataclasses.asdict(parse_config([f"--config={name}"], "x")) for name in SMOLLM2
    }
    assert len(configs) == 9
    for name, config in configs.items():
        assert name.endswith(config.pop("algorithm"))
        assert config.pop("task_args") and config.pop("task")
    first, *others = configs.values()
    assert all(config == first for config in others)


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", SMOLLM2[::4])  # each of the problems and of the methods once
def test_presets_of_smollm2_have_a_dry_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--config={name}", f"--model={REAL_MODEL}", "--dry-run"]) == 0
    assert "parameters: 134,515,008" in capsys.readouterr().out


PROBLEMS = [
    {"problem": f"What is {i} + {i}?", "solution": f"\\boxed{{{2 * i}}}"} for i in range(12)
]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["srpo", "score", "spo-tree"])
def test_a_preset_trains_a_stand_in(method: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = tiny_qwen2()
    model.resize_token_embeddings(len(tokenizer))
    folder = save(model, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    problems = tmp_path / "problems.jsonl"
    rows = ({"source": "olympiads", **problem} for problem in PROBLEMS)
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [
        f"--config=olmo3-7b-olympiads-{method}", f"--model={folder}", f"--output={tmp_path}/run",
        f"--task_args.path={problems}", "--task_args.test=4", "--task_args.train=8",
        "--task_args.instruction=", "--engine=transformers", "--steps=1", "--prompts_per_step=2",
        "--sampling.max_completion_length=24", "--localization.max_tokens=8", "--lora.r=2",
        "--evaluation.samples=1",
    ]  # fmt: skip
    if method == "spo-tree":
        argv += ["--spo_tree.segment_tokens=8"]
    assert main([*argv, "--dry-run"]) == 0
    assert main(argv) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]
