"""The example of the docstring, two processes, and vLLM."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpi
import llm.trl_adapter
from tests.llm.forked import ranks
from tests.llm.tiny_models import VLLM
from tests.llm.trl_adapter.problems import (
    answers,
    tokenizer,
)
from tests.llm.trl_adapter.watch import (
    BASE,
    Watch,
    base_model,
    srpo,
)

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")


def test_the_example_of_the_docstring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, code = (llm.trl_adapter.__doc__ or "").split("::\n", 1)
    lines = itertools.takewhile(lambda line: not line or line.startswith("    "), code.split("\n"))
    code = "\n".join(line[4:] for line in lines)
    assert code.count("GRPOConfig(") == 1
    quick = "max_steps=1, use_cpu=True, per_device_train_batch_size=16, max_completion_length=24, "
    quick += "report_to='none', disable_tqdm=True, dataloader_pin_memory=False, "
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base_model().save_pretrained("model")
    tokenizer().save_pretrained("model")
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in answers(8)]
    Path("problems.jsonl").write_text("\n".join(lines))
    names: dict[str, Any] = {}
    exec(code.replace("GRPOConfig(", "GRPOConfig(" + quick), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 1 and trainer.rollout_func is names["resets"]
    assert names["resets"].ledger.trained_episodes == 16
    assert names["resets"].ledger.resets_accepted == 2


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    job = ranks("tests.llm.trl_adapter.process", [str(tmp_path)])
    printed = [process.communicate(timeout=600) for process in job]
    assert [process.returncode for process in job] == [0, 0], printed
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for process in (first, second):
        assert [len(step) for step in process["groups"]] == [4, 4]  # two prompts, both groups
    assert not {g["prompt"] for step in first["groups"] for g in step} & {
        g["prompt"] for step in second["groups"] for g in step
    }
    assert first["weights"] == second["weights"] != first["before"]
    # Advantages are those of each process's own groups.
    for process in (first, second):
        expected = [
            advantage
            for step in process["groups"]
            for group in cpi.group_advantages([g["returns"] for g in step])
            for advantage in group
        ]
        assert sorted(process["advantages"]) == pytest.approx(sorted(expected), abs=1e-5)
    # Costs are summed over processes, metrics averaged.
    costs = [g["cost"] for p in (first, second) for step in p["groups"] for g in step]
    assert first["ledger"] == second["ledger"] and first["ledger"]["trained_episodes"] == 64
    assert first["ledger"]["steps"] == sum(costs)
    assert first["correction_rate"] == pytest.approx(
        np.mean([process["corrected"][0] for process in (first, second)])
    )


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_samples_for_it(tmp_path: Path) -> None:
    from llm.engines.vllm import VLLMEngine

    engine = VLLMEngine(BASE, **VLLM)
    try:
        watch = Watch(srpo(engine=engine), tmp_path, max_steps=2, learning_rate=1e-2).train()
        for inputs, (logps, _) in zip(watch.inputs, watch.scores, strict=True):
            there = inputs["completion_mask"].bool()
            torch.testing.assert_close(
                inputs["sampling_per_token_logps"][there], logps.detach()[there], rtol=0, atol=1e-4
            )
        assert watch.resets.ledger.resets_accepted
    finally:
        engine.close()
