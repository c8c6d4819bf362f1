"""The trainer: collect, compare within groups, update, hand the new weights to the engine.

    collection = collect(simulator, prompts, plan, rule, rng)      # the same `collect` as in cpi
    advantages = group_advantages(returns)
    metrics = update(rows(collection, advantages))
    engine.sync_weights(policy)

Everything random is keyed by (seed, step), so a run that was interrupted continues bit for bit from
its last checkpoint. The loop is blind to the algorithm, which is a plan and a rule, or a baseline
(`llm.baselines`): it gives a `Batch` of rows; and to how many processes run it, except where
samples, policy and files are divided (`llm.distributed`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from cpi.collect import Ledger
from llm import checkpoints, sharding, training_state
from llm.baselines import BASELINES, Baseline
from llm.batch import Batch
from llm.config import TrainConfig, differences, recorded
from llm.distributed import first, gather, rank, still_together, world_size
from llm.engines import Engine, EngineError, make_engine
from llm.engines.sharded import ShardedEngine
from llm.evaluation import evaluate
from llm.metrics_log import MetricsLog
from llm.models import (
    adapter_state_dict,
    default_device,
    eos_token_ids,
    load_policy,
    load_tokenizer,
    load_trainable,
    locate,
    merged_state_dict,
    trainable,
    use_bf16,
)
from llm.optimizer import make_optimizer
from llm.parity import check_parity
from llm.plan_and_rule import PlanAndRule
from llm.progress import Reporter
from llm.prompts import prompt_indices
from llm.readout import Readout, read_out
from llm.rehearsal import Rehearsal
from llm.rollouts import write_rollouts
from llm.rows import MicroBatch
from llm.run_checks import check_lengths, check_task
from llm.streams import COLLECT, EVALUATE, UPDATE, stream
from llm.tasks import Split, checked, make_task
from llm.tasks.digest import digest
from llm.thoughts import Prompt, ThoughtSimulator
from llm.update import TrainingError, Updater
from llm.verdicts import shared_verdicts


class Trainer:
    """A training run, from its settings; see `TrainConfig`.

    Parameters
    ----------
    config : TrainConfig
    reporter : Reporter, optional
        Shows progress.
    resume : Path, optional
        A checkpoint to go on from.
    """

    def __init__(
        self, config: TrainConfig, reporter: Reporter | None = None, resume: Path | None = None
    ) -> None:
        self.config = config
        self.folder = config.folder
        self.log = MetricsLog(self.folder, config.report_to if rank() == 0 else "none")
        self.reporter = reporter or Reporter(config.steps)
        self.task = make_task(config.task, **config.task_args)
        self.examples = {split: checked.examples(self.task, split) for split in get_args(Split)}
        check_task(config, self.task, self.examples)
        self.problems = digest(self.task, self.examples["train"])
        model = locate(config.model)
        self.tokenizer = load_tokenizer(model)
        device = default_device()
        self.bf16 = use_bf16(config.bf16, device)
        _seed_everything(config.seed, 0)
        several = world_size() > 1
        self.policy = load_policy(
            model,
            lora=config.lora,
            gradient_checkpointing=config.gradient_checkpointing,
            device=torch.device("cpu") if several else device,  # the device gets its part alone
            bf16=self.bf16,
        )
        self.eos = eos_token_ids(self.policy)
        needs_copy = config.needs_reference and not config.lora.r
        reference = _frozen(self.policy) if needs_copy else None
        policy: Any = self.policy
        if several:
            policy = sharding.shard(policy)
            reference = sharding.shard(reference) if needs_copy else None
        self.optimizer, self.scheduler = make_optimizer(self.policy, config)
        self.update = Updater(
            policy,
            self.optimizer,
            self.scheduler,
            config.loss,
            config.update,
            max_completion_length=config.sampling.max_completion_length,
            temperature=config.sampling.temperature,
            bf16=self.bf16,
            reference=reference,
            rehearsal=self._rehearsal(),
        )
        self.step = self._recorded = 0
        self.stop_asked = False
        self.ledger = Ledger()
        self.num_tokens = 0
        if resume is not None:
            self._restore(resume)
        self.sends_adapters = config.engine == "vllm" and config.vllm.lora
        self.engine: Engine = make_engine(
            config.engine,
            model,
            bf16=self.bf16,
            seed=config.seed,
            adapters=self.policy.peft_config["default"] if self.sends_adapters else None,
            **asdict(config.vllm),
        )
        if several:
            self.engine = ShardedEngine(self.engine)
        try:
            self.simulator = ThoughtSimulator(
                self.engine,
                self.tokenizer,
                shared_verdicts(self.task),
                config.sampling.limits(),
                config.sampling.temperature,
                config.sampling.top_p,
                self.eos,
            )
            self.train_prompts = [self.simulator.prompt(e) for e in self.examples["train"]]
            test = self.examples["test"][: config.evaluation.problems]
            self.test_prompts = [self.simulator.prompt(e) for e in test]
            most = config.sampling.max_completion_length
            check_lengths(
                [*self.train_prompts, *self.test_prompts], most, self.engine.max_model_len
            )
            self.baseline = self._baseline()
            self.plan_and_rule = PlanAndRule(
                self.simulator, self.task, config, self.train_prompts, self.read_out, self.reporter
            )
            for note in self.task.notes():
                self.reporter.message(note)
            if config.sampling.top_p < 1:
                self.reporter.message(
                    f"warning: sampling.top_p = {config.sampling.top_p:g} samples from a truncated "
                    "distribution, but the loss is that of the full one; 1 is the honest choice"
                )
            self.sync()
            self.check_parity()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------ the run

    def run(self) -> list[dict[str, float]]:
        """Train to the last step; returns the metrics of every step.

        Raises
        ------
        TrainingError, EngineError, ValueError, OSError
            If it cannot go on; whatever the reason, what had been reached is in a checkpoint then.
        """
        records = []
        if self.step == 0:
            # A checkpoint of the start: an interruption before the first save loses nothing.
            self.save()
            if self.config.evaluation.steps:
                records.append(self._record(0, self.evaluate(0)))
        stop = self.stopping()
        while not (self.finished or stop):
            try:
                records.append(self.train_step())
            except (Exception, SystemExit) as error:  # a closed pipe makes the display raise that
                if still_together(error):
                    self._save_what_is_whole()
                raise
            stop = self.stopping()  # once: who is asked to after that does another step
            if stop or self.finished or self.step % self.config.save_steps == 0:
                self.save()
                stop = self.stopping()
        return records

    def stopping(self) -> bool:
        """Whether any process was asked to stop; all of them must ask this together."""
        return any(gather(self.stop_asked))

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the token budget is spent."""
        budget = self.config.token_budget
        spent = self.ledger.steps + self.ledger.localizer_cost
        return self.step >= self.config.steps or (budget is not None and spent >= budget)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()
        self.log.close()

    def train_step(self) -> dict[str, float]:
        """One step: collect, update, sync, measure."""
        config, step, began = self.config, self.step + 1, time.perf_counter()
        _seed_everything(config.seed, step)
        batch = self.batch(step)
        self.engine.sleep()  # its memory is the update's meanwhile
        rows, metrics = batch.rows, dict(batch.metrics)
        metrics["verifier/failure_rate"] = self._failure_rate()
        trained = sum(row.trained for row in rows if row.moves(config.loss.beta))
        trained *= config.update.num_iterations
        try:
            with self.reporter.stage("train", trained) as stage:
                metrics.update(self.update(rows, stream(config.seed, step, UPDATE), stage.advance))
        except TrainingError as error:
            path = self.folder / f"diagnosis-step-{step:06}.json"
            if rank() == 0:
                path.write_text(json.dumps(error.diagnosis, indent=2) + "\n")
            error.args = (f"step {step}: {error}; see {path}",)
            raise
        self.step = step
        self.ledger = self.ledger + batch.ledger
        self.num_tokens += sum(len(row.ids) for row in rows)
        failure = None
        try:
            self.engine.wake()
            self.sync()
            if config.evaluation.steps and (step % config.evaluation.steps == 0 or self.finished):
                metrics.update(self.evaluate(step))
        except EngineError as error:
            failure = error  # the step is done all the same, and is recorded
        if config.rollout_steps and step % config.rollout_steps == 0:
            first(lambda: write_rollouts(self.folder, step, batch.records()))
        metrics["num_tokens"] = self.num_tokens
        metrics.update({f"ledger/{name}": n for name, n in self.ledger.to_json().items()})
        metrics["step_time"] = time.perf_counter() - began
        metrics.update(self.reporter.clear_timings())
        record = self._record(step, metrics)
        if failure is not None:
            raise failure
        return record

    def batch(self, step: int) -> Batch:
        """What a step trains on: a function of (seed, step) and of the engine's weights."""
        config = self.config
        chosen = prompt_indices(config.seed, step, config.prompts_per_step, len(self.train_prompts))
        if self.baseline is None:
            return self.plan_and_rule.batch(step, chosen)
        prompts = [self.train_prompts[i] for i in chosen]
        return self.baseline.batch(step, prompts, stream(config.seed, step, COLLECT))

    def read_out(self, prompts: Sequence[Prompt]) -> Readout:
        """The policy's exact values on chain reasoning."""
        return read_out(self.logprobs, self.tokenizer, self.task, prompts, self.update.device)

    def logprobs(self, batch: MicroBatch) -> torch.Tensor:
        """The policy's, without dropout: what the engine samples from has none."""
        self.policy.eval()  # an update puts it back
        return self.update.logprobs(batch)

    def sync(self) -> None:
        """Give the engine the policy's weights, or its adapters if it takes them."""
        if self.sends_adapters:
            weights = adapter_state_dict(self.policy)
        else:
            weights = merged_state_dict(self.policy, self.engine.dtype)
        self.engine.sync_weights(weights)

    def check_parity(self) -> None:
        """Compare engine and trainer on a few samples, print it, stop if they differ."""
        parity = check_parity(
            self.engine,
            self.logprobs,
            [prompt.ids for prompt in self.train_prompts[:4]],
            temperature=self.config.sampling.temperature,
            device=self.update.device,
        )
        self.reporter.message(str(parity))

    def evaluate(self, step: int) -> dict[str, float]:
        """pass@1 and pass@k on held-out problems, with the same random numbers every time."""
        rng = stream(self.config.seed, 0, EVALUATE)
        metrics = evaluate(self.simulator, self.test_prompts, self.config.evaluation.samples, rng)
        return {**metrics, "eval/verifier/failure_rate": self._failure_rate()}

    # ------------------------------------------------------------------ its files

    def save(self) -> Path:
        """Write a checkpoint of the current step."""
        names = list(trainable(self.policy))
        optimizer, optimizer_state = training_state.optimizer_tensors(self.optimizer, names)
        rng, rng_state = training_state.rng_state()
        tensors = {
            "model": sharding.collect({n: p.detach() for n, p in trainable(self.policy).items()}),
            "optimizer": sharding.collect(optimizer),
            "rng": rng,
        }
        state = {
            "config": self.config.plain(),
            "optimizer": optimizer_state,
            "scheduler": self.scheduler.state_dict(),
            "rng": rng_state,
            "ledger": self.ledger.to_json(),
            "num_tokens": self.num_tokens,
            "problems": self.problems,
        }
        folder, keep = self.folder / "checkpoints", self.config.save_total_limit
        return first(lambda: checkpoints.save(folder, self.step, tensors, state, keep=keep))

    def _save_what_is_whole(self) -> None:
        """After a failure: save, unless a step is half done or half recorded."""
        if self._recorded == self.step and self.update.whole:
            with contextlib.suppress(checkpoints.CheckpointError):  # the failure says more
                self.save()

    def _restore(self, path: Path) -> None:
        checkpoint = sharding.load(path)
        changed = differences(recorded(checkpoint.state["config"]), self.config.plain())
        if changed:
            raise ValueError(
                f"resume: {path} was made with other settings ({'; '.join(changed[:3])}"
                f"{f' and {len(changed) - 3} more' if len(changed) > 3 else ''}); give the same "
                "ones, or another --output for a new run"
            )
        if checkpoint.state["problems"] != self.problems:
            raise ValueError(
                f"task: the training problems of {self.task} are not those that {path} was trained "
                "on: their data have changed; put them back, or give another --output"
            )
        load_trainable(self.policy, checkpoint.tensors["model"])
        names = list(trainable(self.policy))
        training_state.load_optimizer(
            self.optimizer, names, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"]
        )
        self.scheduler.load_state_dict(checkpoint.state["scheduler"])
        training_state.set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"])
        self.step = self._recorded = checkpoint.step
        self.ledger = Ledger(**checkpoint.state["ledger"])
        self.num_tokens = checkpoint.state["num_tokens"]

    def _record(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        record = first(lambda: self.log.write(step, metrics))
        self._recorded = step
        self.reporter.step(step, metrics)
        return record

    # ------------------------------------------------------------------ helpers

    def _failure_rate(self) -> float:
        """Share of episodes since the last call that the verifier could not judge."""
        judged, unjudged = self.simulator.verdicts()
        return len(unjudged) / judged if judged else 0.0

    def _baseline(self) -> Baseline | None:
        if self.config.algorithm not in BASELINES:
            return None
        baseline = BASELINES[self.config.algorithm](self.simulator, self.config, self.reporter)
        baseline.check(self.train_prompts)
        return baseline

    def _rehearsal(self) -> Rehearsal | None:
        options = self.config.rehearsal
        if not options.file or not options.weight:
            return None
        return Rehearsal(options, self.tokenizer, self.policy.config.max_position_embeddings)


def _frozen(policy: Any) -> Any:
    return copy.deepcopy(policy).eval().requires_grad_(False)


def _seed_everything(seed: int, step: int) -> None:
    """Dropout, and what a user's own code may draw from global generators."""
    key = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(key)
    np.random.seed(key)  # noqa: NPY002
    torch.manual_seed(key)
