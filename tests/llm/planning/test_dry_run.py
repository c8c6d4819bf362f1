"""The command: what it prints, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm.planning.dry_run_report import advice, rounded
from llm.planning.hardware import DryRunOptions
from llm.planning.options import split
from llm.train.__main__ import main
from tests.llm.tiny_models import tiny_qwen2


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
    assert "memory of the process on CPUs, GiB" in shown and "GPU" not in shown
    assert "640 prompts, of at most 12 tokens" in shown
    assert list(tmp_path.iterdir()) == []


def test_rounded__two_digits_without_an_exponent() -> None:
    times = {1234567.0: "1,200,000", 95.4: "95", 3.14159: "3.1", 0.456: "0.46", 0.0012: "0"}
    assert {value: rounded(value) for value in times} == times


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


def test_known_requests_for_second_attempts_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--prompts_per_step=1", "--score.attempts=2", "--sampling.max_completion_length=20"]
    assert main(["--config=chain", "--algorithm=score", *flags, "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    (prompt,) = re.findall(r"prompts of (\d+) tokens", shown)
    (bound,) = re.findall(r"tokens of the update [\d,]+ ([\d,]+)", shown)
    # Two first attempts, and two second ones after prompt, first attempt and request.
    request = (int(bound.replace(",", "")) - 4 * int(prompt) - 2 * 20 - 2 * 40) / 2
    assert 0 < request < 20


def test_the_way_to_several_gpus_is_shown() -> None:
    assert (
        advice({"gpus": 8}) == "8 GPUs (torchrun --nproc_per_node 8 -m llm.train --config …) fits"
    )
