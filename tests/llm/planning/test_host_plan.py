"""Plan of host memory and temporary files."""

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


def test_plan_host__merged_weights_need_memory_and_files_per_process() -> None:
    lora = footprint(4)
    merged, adapters = (
        parsed("--engine=vllm", "--lora.r=4", *more) for more in ([], ["--vllm.lora=true"])
    )
    assert plan_host(merged, lora, 8) == HostPlan(
        {
            "to load the model": 8 * lora.weights,
            "for sleeping engines": 8 * 2 * lora.base,
            "for merged weights": 8 * 2 * lora.base,
        },
        8 * 2 * lora.base,
    )
    adapters_plan = plan_host(adapters, lora, 8)
    assert "for merged weights" not in adapters_plan.memory
    assert adapters_plan.files == 8 * 4 * lora.trained
    # A single process needs no files, unless its engine runs in a separate process.
    assert plan_host(merged, lora, 1).files == 0
    separate = parsed("--engine=vllm", "--lora.r=4", "--vllm.separate_process=true")
    assert plan_host(separate, lora, 1).files == 2 * lora.base


def test_plan_host__engines_on_dedicated_gpus_need_no_files() -> None:
    config = parsed("--engine=vllm", "--vllm.first_device=4")
    plan = plan_host(config, footprint(0), 4)
    assert list(plan.memory) == ["to load the model", "for merged weights"] and not plan.files


def test_plan_host__reference_doubles_loaded_weights() -> None:
    full = footprint(0)
    plain, score = (
        plan_host(parsed(f"--algorithm={name}"), full, 2).memory["to load the model"]
        for name in ("grpo", "score")
    )
    assert 2 * plain == score == 2 * 2 * full.weights


def test_check_host__too_little_memory_or_disk_is_refused() -> None:
    config = parsed("--engine=vllm", "--lora.r=4")
    plan = HostPlan({"to load the model": 4 * GIB, "for sleeping engines": 8 * GIB}, 2 * GIB)
    check_host(plan, config, 8 * GIB, 2 * GIB, "/tmp")
    with pytest.raises(ValueError, match=r"8\.0 GiB .* needed for sleeping engines, 7\.0 are"):
        check_host(plan, config, 7 * GIB, 2 * GIB, "/tmp")
    with pytest.raises(ValueError, match=r"TMPDIR: .* 2\.0 GiB.* 1\.0 .* or vllm\.lora true"):
        check_host(plan, config, 8 * GIB, GIB, "/tmp")
