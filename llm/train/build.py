"""Build the parts of a training run from its settings."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch

from llm.algorithms.validation import check_lengths, check_task
from llm.config.train import TrainConfig
from llm.distributed.processes import world_size
from llm.engines import Engine, make_engine
from llm.engines.sharded import ShardedEngine
from llm.learner.optimizer import make_optimizer
from llm.learner.rows import MicroBatch
from llm.learner.updater import PolicyUpdater
from llm.models import fsdp
from llm.models.policy import (
    adapter_state_dict,
    default_device,
    eos_token_ids,
    load_policy,
    load_tokenizer,
    merged_state_dict,
    use_bf16,
)
from llm.models.shipped import locate
from llm.tasks import Example, Split, Task, checked, make_task
from llm.tasks.digest import digest
from llm.tasks.shared import shard_verification
from llm.thoughts.simulator import Prompt, ThoughtSimulator


@dataclass(frozen=True)
class Problems:
    """A task and its problems.

    Attributes
    ----------
    task : Task
    train, test : list of Example
    digest : str
        Digest of the training problems; a resumed run must have the same.
    """

    task: Task
    train: list[Example]
    test: list[Example]
    digest: str


def load_problems(config: TrainConfig) -> Problems:
    """Create the task of a run and load its problems.

    Raises
    ------
    ValueError
        If the task cannot be created, or does not fit the algorithm.
    """
    task = make_task(config.task, **config.task_args)
    examples = {split: checked.examples(task, split) for split in get_args(Split)}
    check_task(config, task, examples)
    test = examples["test"][: config.evaluation.problems]
    return Problems(task, examples["train"], test, digest(task, examples["train"]))


@dataclass(frozen=True)
class Learner:
    """The policy, with its optimizer and updater.

    Attributes
    ----------
    model : str
        Folder or hub name that the policy was loaded from.
    tokenizer : Transformers tokenizer
    policy : PreTrainedModel or PeftModel
    optimizer : torch.optim.Optimizer
    scheduler : torch learning-rate scheduler
    updater : PolicyUpdater
    bf16 : bool
    sends_adapters : bool
        Whether the engine receives only the adapters.
    """

    model: str
    tokenizer: Any
    policy: Any
    optimizer: torch.optim.Optimizer
    scheduler: Any
    updater: PolicyUpdater
    bf16: bool
    sends_adapters: bool

    def logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """Log-probs of the trained tokens without dropout, comparable to those of the engine."""
        self.policy.eval()  # the next update restores training mode
        return self.updater.logprobs(batch)

    def weights(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Weights for the engine: the adapters alone, or all weights with adapters merged in."""
        if self.sends_adapters:
            return adapter_state_dict(self.policy)
        return merged_state_dict(self.policy, dtype)


def build_learner(config: TrainConfig) -> Learner:
    """Load the policy, shard it among the processes, and create its optimizer.

    Raises
    ------
    FileNotFoundError, ValueError
        If the model cannot be loaded, or adapters or schedule do not fit it.
    """
    model, device = locate(config.model), default_device()
    tokenizer = load_tokenizer(model)
    bf16 = use_bf16(config.bf16, device)
    distributed = world_size() > 1
    policy = load_policy(
        model,
        lora=config.lora,
        gradient_checkpointing=config.gradient_checkpointing,
        device=torch.device("cpu") if distributed else device,  # only the shard goes to a device
        bf16=bf16,
        disable_dropout=config.disable_dropout,
    )
    needs_copy = config.needs_reference and not config.lora.r
    reference = copy.deepcopy(policy).eval().requires_grad_(False) if needs_copy else None
    sharded: Any = policy
    if distributed:
        sharded = fsdp.shard(policy)
        reference = fsdp.shard(reference) if needs_copy else None
    updates = config.steps * config.update.num_iterations * config.update.steps_per_generation
    optimizer, scheduler = make_optimizer(policy, config.optimizer, updates)
    updater = PolicyUpdater(
        sharded,
        optimizer,
        scheduler,
        config.loss,
        config.update,
        max_completion_length=config.sampling.max_completion_length,
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        bf16=bf16,
        reference=reference,
    )
    sends_adapters = config.engine == "vllm" and config.vllm.lora
    return Learner(model, tokenizer, policy, optimizer, scheduler, updater, bf16, sends_adapters)


@dataclass(frozen=True)
class Sampler:
    """An engine, its simulator, and the encoded prompts.

    Attributes
    ----------
    engine : Engine
    simulator : ThoughtSimulator
    train, test : list of Prompt
    """

    engine: Engine
    simulator: ThoughtSimulator
    train: list[Prompt]
    test: list[Prompt]


def build_sampler(config: TrainConfig, problems: Problems, learner: Learner) -> Sampler:
    """Start the engine and encode the prompts.

    Raises
    ------
    EngineError, FileNotFoundError, ValueError
        If the engine does not start, or a prompt leaves no room for a completion. The engine is
        closed then.
    """
    engine: Engine = make_engine(
        config.engine,
        learner.model,
        bf16=learner.bf16,
        seed=config.seed,
        adapters=learner.policy.peft_config["default"] if learner.sends_adapters else None,
        **asdict(config.vllm),
    )
    if world_size() > 1:
        engine = ShardedEngine(engine)
    try:
        sampling = config.sampling
        simulator = ThoughtSimulator(
            engine,
            learner.tokenizer,
            shard_verification(problems.task),
            sampling.limits(),
            sampling.temperature,
            sampling.top_p,
            eos_token_ids(learner.policy),
        )
        train, test = (
            [simulator.prompt(example) for example in examples]
            for examples in (problems.train, problems.test)
        )
        check_lengths([*train, *test], sampling.max_completion_length, engine.max_model_len)
    except BaseException:
        engine.close()
        raise
    return Sampler(engine, simulator, train, test)
