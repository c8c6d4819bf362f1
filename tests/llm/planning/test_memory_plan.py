"""Plans of memory: who holds what, what fits, and what would."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from llm.config.train import TrainConfig, parse_config
from llm.engines import SamplingParams
from llm.engines.sampler import Sampler
from llm.models.lora import LoraOptions
from llm.planning.demand import Lengths
from llm.planning.fitting import smallest_change
from llm.planning.footprint import Footprint, _LiveBytes, load_architecture
from llm.planning.hardware import GIB, USABLE, Hardware
from llm.planning.memory_plan import (
    SAMPLING_BYTES,
    SORTING_BYTES,
    MemoryPlan,
    longest_row,
    plan_memory,
    sequences,
    with_settings,
)
from llm.planning.step_cost import LAYER_SECONDS, step_cost
from tests.llm.architectures import write
from tests.llm.tiny_models import tiny_qwen2

EIGHT = Hardware(8, 80 * GIB, "cuda", 312e12, here=False)
ONE = Hardware(1, 24 * GIB, "cuda", 71e12, here=False)

NO_STAGE1 = {"score.stage1_steps": 0}

GENERATE, BACKWARD, STEP, SYNC = range(4)


@pytest.fixture(scope="module")
def qwen_14b(tmp_path_factory: pytest.TempPathFactory) -> Footprint:
    folder = write(tmp_path_factory.mktemp("models"))["Qwen2.5-14B-Instruct"]
    return Footprint(load_architecture(str(folder)), LoraOptions(r=64, alpha=64), bf16=True)


@pytest.fixture(scope="module")
def tiny() -> Footprint:
    return Footprint(tiny_qwen2().config, LoraOptions(), bf16=False)


def parsed(*argv: str) -> TrainConfig:
    return parse_config(["--model=m", *argv], "prog")


def planned(config: TrainConfig, footprint: Footprint, hardware: Hardware) -> MemoryPlan:
    return plan_memory(config, footprint, hardware, Lengths(8), update=GIB)


# --- who holds what


def test_gpus_share_states_and_each_has_an_engine(tiny: Footprint) -> None:
    config = parsed("--engine=vllm", "--vllm.max_model_len=64")
    one, eight = (
        planned(config, tiny, Hardware(gpus, 80 * GIB, "cuda", 1.0, here=False)) for gpus in (1, 8)
    )
    for name in ("weights", "gradients", "optimizer"):
        assert eight.parts[name][BACKWARD] == -(-one.parts[name][BACKWARD] // 8)
    assert eight.parts["engine weights"] == one.parts["engine weights"]
    assert "other weights, gathered" not in one.parts
    assert eight.parts["other weights, gathered"][BACKWARD] == tiny.rest + 3 * tiny.layer


def test_vllm_takes_its_share_and_sleeps_on_a_gpu(tiny: Footprint) -> None:
    config = parsed("--engine=vllm", "--vllm.max_model_len=64")
    parts = planned(config, tiny, EIGHT).parts
    engine = [parts[name] for name in ("engine weights", "engine buffers", "KV cache")]
    taken = [sum(row[phase] for row in engine) for phase in range(4)]
    assert taken == [40 * GIB, 0, 0, 40 * GIB]
    on_cpu = planned(config, tiny, Hardware(1, 80 * GIB, "cpu", 1.0, here=False)).parts
    assert on_cpu["engine weights"] == (4 * tiny.base,) * 4


def test_a_reference_is_held_where_the_loss_needs_one(tiny: Footprint) -> None:
    assert "reference copy" not in planned(parsed(), tiny, ONE).parts
    parts = planned(parsed("--loss.beta=0.1"), tiny, ONE).parts
    assert parts["reference copy"] == (tiny.weights,) * 4
    assert "reference copy" not in planned(parsed("--loss.beta=0.1", "--lora.r=4"), tiny, ONE).parts
    score = parsed("--algorithm=score")
    assert planned(score, tiny, ONE).parts["reference copy"] == (tiny.weights,) * 4
    assert "reference copy" not in planned(with_settings(score, NO_STAGE1), tiny, ONE).parts


def test_second_attempts_are_rows_and_sequences_of_two_completions() -> None:
    config = parsed("--algorithm=score", "--evaluation.steps=0", "--prompts_per_step=2")
    two = 100 + 256 + 30 + 256  # prompt, first attempt, request, second attempt
    assert sequences(config, Lengths(100, 30)) == [(2, 4, 356), (8, 1, two)]
    assert longest_row(config, Lengths(100, 30)) == (two - 256, 256)
    # A refinement is trained on after the prompt alone.
    config = parsed("--algorithm=critique_grpo", "--evaluation.steps=0", "--prompts_per_step=2")
    assert sequences(config, Lengths(100, 30))[1] == (14, 1, two)
    assert longest_row(config, Lengths(100, 30)) == (100, 256)


def test_rows_of_two_attempts_take_more(tiny: Footprint) -> None:
    few = ["--sampling.max_completion_length=100", "--evaluation.steps=0", "--score.attempts=8"]
    more, less = (
        plan_memory(parsed(f"--algorithm={name}", *few), tiny, ONE, Lengths(8, 4))
        for name in ("score", "grpo")
    )
    # Two completions and the request, where there was one.
    assert more.parts["activations"][BACKWARD] > 1.5 * less.parts["activations"][BACKWARD]
    assert more.parts["KV cache"][GENERATE] > less.parts["KV cache"][GENERATE]


def test_new_weights_are_on_the_device_only_where_one_process_merges_them(
    qwen_14b: Footprint,
) -> None:
    flags = ["--engine=vllm", "--lora.r=64", "--vllm.max_model_len=4096"]
    one = dataclasses.replace(EIGHT, gpus=1)

    def sync(hardware: Hardware, *more: str) -> int:
        parts = planned(parsed(*flags, *more), qwen_14b, hardware).parts
        return parts.get("weights for the engine", (0,) * 4)[SYNC]

    assert sync(one) == 2 * qwen_14b.base
    assert sync(EIGHT) == qwen_14b.largest == 2 * 152064 * 5120
    assert sync(EIGHT, "--vllm.lora=true") == sync(one, "--vllm.lora=true") == 0


def test_vllm_has_room_for_adapters_of_every_matrix(qwen_14b: Footprint) -> None:
    flags = ["--engine=vllm", "--vllm.max_model_len=4096"]
    plain, adapters, rank_100 = (
        planned(parsed(*flags, *more), qwen_14b, EIGHT).parts["engine weights"][GENERATE]
        for more in (
            ["--lora.r=64"],
            ["--lora.r=64", "--vllm.lora=true"],
            ["--lora.r=100", "--vllm.lora=true"],
        )
    )
    # Those that are trained, and of the embeddings and the head; vLLM has rank 128 for 100.
    assert plain == 2 * qwen_14b.base
    assert adapters - plain == 2 * (qwen_14b.trained + 2 * 64 * (152064 + 5120))
    assert rank_100 - plain == 2 * (adapters - plain)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--vllm.tensor_parallel_size=16"], "vllm.tensor_parallel_size: 16 is more than the 8"),
        (["--vllm.tensor_parallel_size=4"], "vllm.tensor_parallel_size: 4 does not divide the mod"),
        (["--vllm.gpu_memory_utilization=0.02"], "KV cache: one sequence of 256 tokens takes 0.0"),
        (["--vllm.gpu_memory_utilization=0.97"], "generate: 77.6 GiB are needed, 76.0 are there"),
    ],
)
def test_what_does_not_fit_is_said(flags: list[str], problem: str, tiny: Footprint) -> None:
    plan = planned(parsed("--engine=vllm", *flags), tiny, EIGHT)
    assert plan.problems[0].startswith(problem)


@pytest.mark.parametrize("top_p", [1.0, 0.95])
def test_sampling_takes_what_is_planned(top_p: float) -> None:
    """Bytes of all live tensors, for flat logits, whose nuclei are found by sorting them all."""
    logits = torch.randn((4, 20_000), dtype=torch.bfloat16)
    sampler = Sampler([SamplingParams(1, temperature=0.7, top_p=top_p)] * 4, torch.device("cpu"))
    with torch.inference_mode(), _LiveBytes() as live:
        live.start([logits])
        sampler(logits, np.full(4, 0.5), np.arange(4))
    planned = SAMPLING_BYTES + (SORTING_BYTES if top_p < 1 else 0)
    assert 0.6 * planned < live.peak / logits.numel() <= planned


# --- what would fit


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ([], ["update.per_device_train_batch_size"]),
        (["--update.per_device_train_batch_size=1"], ["gradient_checkpointing"]),
        (
            ["--engine=vllm", "--vllm.gpu_memory_utilization=0.96", "--vllm.max_model_len=256"],
            ["vllm.gpu_memory_utilization"],
        ),
    ],
)
def test_the_smallest_change_is_found_and_fits(flags: list[str], names: list[str]) -> None:
    few = ["--prompts_per_step=4", "--evaluation.steps=0", "--sampling.max_completion_length=240"]
    config = parsed(*few, *flags)
    policies: dict[str, Footprint] = {}

    def footprint(of: TrainConfig) -> Footprint:
        key = repr(of.lora)
        if key not in policies:
            policies[key] = Footprint(tiny_qwen2().config, of.lora, bf16=False)
        return policies[key]

    vllm = config.engine == "vllm"
    ample = Hardware(1, 10 * GIB, "cuda" if vllm else "cpu", 1.0, here=False)
    needed = plan_memory(config, footprint(config), ample, Lengths(8)).totals()
    # A little less than the update needs; vLLM asks for too much of anything.
    scarce = ample if vllm else dataclasses.replace(ample, memory=int(0.98 * max(needed) / USABLE))
    problems = plan_memory(config, footprint(config), scarce, Lengths(8)).problems
    assert problems and problems[0].startswith("generate" if vllm else "backward")
    change = smallest_change(config, scarce, Lengths(8), footprint)
    assert change is not None and list(change) == names
    changed = with_settings(config, change)
    assert plan_memory(changed, footprint(changed), scarce, Lengths(8)).problems == []


def test_what_cannot_be_is_not_suggested(tiny: Footprint) -> None:
    tree = ["--spo_tree.branches=[2,2]", "--spo_tree.segment_tokens=200"]
    config = parsed("--algorithm=spo_tree", "--sampling.max_completion_length=256", *tree)
    none = Hardware(1, 1000, "cpu", 1.0, here=False)
    assert smallest_change(config, none, Lengths(8), lambda _: tiny) is None


def test_adapters_alone_are_suggested_where_merged_weights_are_too_much(
    qwen_14b: Footprint,
) -> None:
    flags = ["--engine=vllm", "--lora.r=64", "--vllm.max_model_len=4096", "--bf16=true"]
    flags += ["--gradient_checkpointing=true", "--update.per_device_train_batch_size=1"]
    one = dataclasses.replace(EIGHT, gpus=1)
    assert smallest_change(parsed(*flags), one, Lengths(8), lambda _: qwen_14b) == {
        "vllm.lora": True
    }


# --- tokens and time


def test_tokens_of_a_step_are_those_of_the_plan(tiny: Footprint) -> None:
    flags = ["--prompts_per_step=2", "--sampling.max_completion_length=100"]
    cost = step_cost(parsed(*flags), tiny, ONE, Lengths(10))
    assert {name: most for name, (_, most) in cost.generated.items()} == {
        "fresh": 2 * 4 * 100, "localization": 2 * 1024, "reset": 2 * 4 * 100,
    }  # fmt: skip
    assert cost.trained[1] == 2 * 8 * 110
    grpo = step_cost(parsed("--algorithm=grpo", *flags), tiny, ONE, Lengths(10))
    assert list(grpo.generated) == ["fresh"] and grpo.tokens[1] == 2 * 8 * 100
    deepest = step_cost(parsed("--plan.choice=deepest", *flags), tiny, ONE, Lengths(10))
    assert deepest.generated["localization"][1] == 2 * 4 * 1024


@pytest.mark.parametrize(
    ("flags", "most"),
    [
        (
            ["--algorithm=spo_tree", "--spo_tree.branches=[6,6,6]"],
            32 * (6 * 64 + 36 * 64 + 216 * (5120 - 128)),
        ),
        (["--algorithm=critique_grpo"], 32 * 14 * 5120),
        (["--algorithm=score"], 32 * 8 * 5120),
        (["--algorithm=grpo", "--dynamic_sampling=5"], 6 * 32 * 8 * 5120),
    ],
)
def test_tokens_have_a_bound_that_holds(flags: list[str], most: int, tiny: Footprint) -> None:
    limits = ["--sampling.max_completion_length=5120", "--prompts_per_step=32"]
    cost = step_cost(parsed(*limits, *flags), tiny, ONE, Lengths(100, 20))
    assert cost.tokens[1] == most > cost.tokens[0] > 0


def test_tokens_through_the_update_are_those_of_the_rows(tiny: Footprint) -> None:
    limits = ["--sampling.max_completion_length=1000", "--prompts_per_step=1"]

    def trained(*flags: str) -> int:
        return step_cost(parsed(*limits, *flags), tiny, ONE, Lengths(100, 20)).trained[1]

    assert trained("--algorithm=score") == 4 * (100 + 1000) + 4 * (100 + 1000 + 20 + 1000)
    assert trained("--algorithm=critique_grpo") == 8 * 1100
    tree = ["--algorithm=spo_tree", "--spo_tree.branches=[3,2]", "--spo_tree.segment_tokens=50"]
    assert trained(*tree) == 3 * 150 + 6 * 1100


def test_stage_one_of_score_passes_through_the_reference(tiny: Footprint) -> None:
    config = parsed("--algorithm=score")
    with_kl, without = (
        step_cost(each, tiny, ONE, Lengths(10)).seconds["train"][1]
        for each in (config, with_settings(config, NO_STAGE1))
    )
    assert with_kl == pytest.approx(without * 8 / 6)


def test_time_is_operations_over_speed(tiny: Footprint) -> None:
    flags = ["--algorithm=grpo", "--prompts_per_step=1", "--evaluation.steps=0"]
    config: Any = parsed(*flags, "--engine=vllm")
    cost = step_cost(config, tiny, Hardware(1, GIB, "cuda", 1e9, here=False), Lengths(10))
    assert cost.seconds["generate"][1] == pytest.approx(2 * tiny.base * 8 * 256 / 5e7)
    assert cost.seconds["train"][1] == pytest.approx(6 * tiny.base * 8 * 266 / 4e8)
    more = step_cost(config, tiny, Hardware(2, GIB, "cuda", 2e9, here=False), Lengths(10))
    assert more.step[1] == pytest.approx(cost.step[1] / 4)


def test_transformers_on_a_gpu_starts_each_token_in_turn(tiny: Footprint) -> None:
    flags = ["--prompts_per_step=40", "--dynamic_sampling=1", "--evaluation.problems=100"]
    flags += ["--sampling.max_completion_length=200", "--localization.max_tokens=30"]

    def seconds(engine: str, device: str, gpus: int = 1) -> dict[str, tuple[float, float]]:
        hardware = Hardware(gpus, GIB, device, 1e9 / gpus, here=False)
        config = parsed(*flags, f"--engine={engine}", "--algorithm=srpo")
        return step_cost(config, tiny, hardware, Lengths(10)).seconds

    alone = seconds("vllm", "cuda")
    assert seconds("transformers", "cpu") == alone
    started = seconds("transformers", "cuda")
    token = tiny.layers * LAYER_SECONDS
    # 160 rows at most are one batch; prompts are replaced once, half of them are expected to be.
    in_turn = 1.5 * (100 + 15 + 50), 2 * (200 + 30 + 200)
    for tokens, a, b in zip(in_turn, started["generate"], alone["generate"], strict=True):
        assert a - b == pytest.approx(token * tokens)
    # An evaluation's 400 are two batches.
    assert started["evaluation"][1] - alone["evaluation"][1] == pytest.approx(token * 2 * 200)
    assert started["train"] == alone["train"]
    two = seconds("transformers", "cuda", gpus=2)  # of half the speed each: as much arithmetic
    assert two["evaluation"][1] - alone["evaluation"][1] == pytest.approx(token * 200)
