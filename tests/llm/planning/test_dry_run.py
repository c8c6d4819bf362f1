"""The command: what it prints, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm.config.presets import presets
from llm.config.train import parse_config
from llm.planning.dry_run_report import advice
from llm.planning.footprint import Footprint
from llm.planning.hardware import DryRunOptions
from llm.planning.options import split
from llm.train.__main__ import main
from tests.llm.architectures import write
from tests.llm.sandboxes import skip_without_sandbox
from tests.llm.small import byte_tokenizer
from tests.llm.tiny_models import save, tiny_qwen2


@pytest.mark.parametrize(
    ("argv", "others", "options"),
    [
        (["--steps=1"], ["--steps=1"], None),
        (["--dry-run", "--steps", "1"], ["--steps", "1"], DryRunOptions()),
        (["--steps=1", "--dry_run"], ["--steps=1"], DryRunOptions()),
        (["--dry_run.gpus", "8", "--steps=1"], ["--steps=1"], DryRunOptions(gpus=8)),
        (
            ["--dry-run", "--dry-run.gpu_memory=80", "--dry_run.tflops", "1e3"],
            [],
            DryRunOptions(gpu_memory=80.0, tflops=1000.0),
        ),
    ],
)
def test_its_flags_are_taken_out(
    argv: list[str], others: list[str], options: DryRunOptions | None
) -> None:
    assert split(argv, "prog") == (others, options)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dry_run.gpus=0", "dry_run.gpus: 0 is not > 0"),
        ("--dry_run.gpu_memory=-1", "dry_run.gpu_memory: -1.0 is not > 0"),
        ("--dry_run.cards=2", "cards"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config=chain", flag]) == 2
    assert message in capsys.readouterr().err


def test_it_plans_the_run_on_this_machine_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--config=chain", "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "parameters: 362,304, of which 362,304 are trained" in shown
    for name in ("weights", "optimizer", "activations", "KV cache", "fresh tokens", "step, sec"):
        assert name in shown
    assert "640 prompts, of at most 12 tokens" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=chains"], "task: 'chains' is none of"),
        (["--localizer=nobody"], "localizer: 'nobody' is none of"),
        (["--sampling.max_completion_length=5000"], "tokens of a prompt are more than the model's"),
        (["--model=nowhere"], "model: no config.json of 'nowhere' is here or can be had from"),
        (
            ["--algorithm=score", "--sampling.max_completion_length=255"],
            "sampling.max_completion_length: two attempts of 255 tokens, the ",
        ),
        (["--lora.r=4", "--lora.target_modules=[nothing]"], "lora: "),
        (["--output=/dev/null"], "output: /dev/null cannot be made"),
    ],
)
def test_what_a_run_would_refuse_it_refuses(
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["--config=chain", "--dry-run", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_too_much_is_refused_with_what_would_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(tiny_qwen2().config.to_json_string(use_diff=False))
    argv = ["--config=chain", f"--model={folder}", "--dry_run.gpu_memory=0.06"]
    argv += ["--sampling.max_completion_length=200", "--sampling.max_thought_tokens=200"]
    argv += ["--bf16=false", "--prompts_per_step=4", "--evaluation.steps=0"]
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert "not checked: the tokenizer, which is not here" in captured.out
    found = re.search(r"; (update\.per_device_train_batch_size) (\d+) fits\n$", captured.err)
    assert found, captured.err
    assert main([*argv, f"--{found[1]}={found[2]}"]) == 0


def test_two_attempts_have_to_fit_where_prompts_are_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(tiny_qwen2().config.to_json_string(use_diff=False))
    argv = ["--config=chain", f"--model={tmp_path}", "--dry_run.gpu_memory=80", "--bf16=false"]
    argv += ["--algorithm=critique_grpo", "--sampling.max_completion_length=200"]
    assert main(argv) == 2
    message = "two attempts of 200 and the 1 tokens of a prompt are more than the model's 256"
    assert f"{message}; 127 fits" in capsys.readouterr().err
    # Without refinements there is one.
    assert main([*argv, "--critique_grpo.refinements=0"]) == 0


def test_the_way_to_several_gpus_is_shown() -> None:
    assert (
        advice({"gpus": 8}) == "8 GPUs (torchrun --nproc_per_node 8 -m llm.train --config …) fits"
    )


@pytest.mark.slow
def test_a_full_scale_run_is_planned_without_weights_or_network(tmp_path: Path) -> None:
    folder = write(tmp_path)["Olmo-3-7B-Instruct"]
    command = [
        sys.executable, "-m", "llm.train", "--config=olmo3-7b-olympiads-srpo", f"--model={folder}",
        "--dry-run", "--dry_run.gpus=8", "--dry_run.gpu_memory=80",
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "parameters: 7,457,918,976, of which 159,907,840 are trained" in done.stdout
    assert "not checked: the problems (" in done.stdout
    assert "for all processes together: 113.5 GiB to load the model, 111.3 GiB for" in done.stdout
    assert "warning: sampling.top_p = 0.95" in done.stdout


# --- presets, and some of them on a stand-in


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def each_model_once() -> Iterator[None]:
    """Presets share models and adapters: what a model takes is traced once for all of them."""
    known: dict[str, Footprint] = {}

    def footprint(architecture: Any, *more: Any) -> Footprint:
        key = repr((architecture.to_json_string(), more))
        if key not in known:
            known[key] = Footprint(architecture, *more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llm.planning.dry_run.Footprint", footprint)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("each_model_once")
@pytest.mark.parametrize("name", presets())
def test_every_preset_has_a_dry_run(
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
