"""What a machine has to have beside its GPUs."""

from __future__ import annotations

import pytest

from llm.config.train import TrainConfig, parse_config
from llm.models.lora import LoraOptions
from llm.planning.footprint import Footprint
from llm.planning.hardware import GIB
from llm.planning.host_plan import HostPlan, check_host, plan_host
from tests.llm.tiny_models import tiny_qwen2


def footprint(r: int) -> Footprint:
    return Footprint(tiny_qwen2().config, LoraOptions(r=r), bf16=True)


def parsed(*argv: str) -> TrainConfig:
    return parse_config(["--model=m", *argv], "prog")


def test_merged_weights_pass_through_memory_and_files_once_for_each_process() -> None:
    lora = footprint(4)
    merged, adapters = (
        parsed("--engine=vllm", "--lora.r=4", *more) for more in ([], ["--vllm.lora=true"])
    )
    assert plan_host(merged, lora, 8) == HostPlan(
        {
            "to load the model": 8 * lora.weights,
            "for engines that sleep": 8 * 2 * lora.base,
            "for merged weights": 8 * 2 * lora.base,
        },
        8 * 2 * lora.base,
    )
    alone = plan_host(adapters, lora, 8)
    assert "for merged weights" not in alone.memory
    assert alone.files == 8 * 4 * lora.trained
    # One process hands them over, unless its engine is in another.
    assert plan_host(merged, lora, 1).files == 0
    separate = parsed("--engine=vllm", "--lora.r=4", "--vllm.separate_process=true")
    assert plan_host(separate, lora, 1).files == 2 * lora.base


def test_engines_with_gpus_of_their_own_neither_sleep_nor_read_files() -> None:
    config = parsed("--engine=vllm", "--vllm.first_device=4")
    plan = plan_host(config, footprint(0), 4)
    assert list(plan.memory) == ["to load the model", "for merged weights"] and not plan.files


def test_a_reference_is_loaded_too() -> None:
    full = footprint(0)
    plain, score = (
        plan_host(parsed(f"--algorithm={name}"), full, 2).memory["to load the model"]
        for name in ("grpo", "score")
    )
    assert 2 * plain == score == 2 * 2 * full.weights


def test_a_machine_without_room_is_refused() -> None:
    config = parsed("--engine=vllm", "--lora.r=4")
    plan = HostPlan({"to load the model": 4 * GIB, "for engines that sleep": 8 * GIB}, 2 * GIB)
    check_host(plan, config, 8 * GIB, 2 * GIB, "/tmp")
    with pytest.raises(ValueError, match=r"8\.0 GiB .* needed for engines that sleep, 7\.0 are"):
        check_host(plan, config, 7 * GIB, 2 * GIB, "/tmp")
    with pytest.raises(ValueError, match=r"TMPDIR: .* 2\.0 GiB.* 1\.0 .* or vllm\.lora true"):
        check_host(plan, config, 8 * GIB, GIB, "/tmp")
