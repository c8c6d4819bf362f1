"""The training loop: sample, compare within groups, update, send the new weights to the engine.

    batch = algorithm.batch(step, problems, rng)     # rollouts, resets, advantages → rows
    metrics = updater(batch.rows)
    engine.sync_weights(policy)

Random numbers are keyed by (seed, step). An interrupted run therefore continues bit for bit from
its last checkpoint. The loop is the same for all algorithms and any number of processes.
`llm.train.build` builds its parts; `llm.train.state` saves and restores checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cpi.core.collect import Ledger
from llm.algorithms import Batch, Setup, make_algorithm
from llm.chain.readout import Readout, read_out
from llm.common.progress import Reporter
from llm.common.random_streams import COLLECT, EVALUATE, UPDATE, generator
from llm.config.train import TrainConfig
from llm.distributed.processes import gather, on_main_process, rank, still_together
from llm.engines import EngineError
from llm.learner.parity import check_parity, off_policy
from llm.learner.updater import TrainingError
from llm.runs.checkpoints import CheckpointError
from llm.runs.metrics_log import MetricsLog
from llm.runs.rollout_records import write_rollouts
from llm.runs.trackers import check_installed
from llm.thoughts.simulator import Prompt
from llm.train.build import build_learner, build_sampler, load_problems
from llm.train.evaluation import evaluate
from llm.train.prompt_sampler import prompt_indices
from llm.train.state import restore_run, save_run


class Trainer:
    """A training run.

    Parameters
    ----------
    config : TrainConfig
    reporter : Reporter, optional
        Shows the progress.
    resume : Path, optional
        Checkpoint to resume from.
    """

    def __init__(
        self, config: TrainConfig, reporter: Reporter | None = None, resume: Path | None = None
    ) -> None:
        self.config = config
        tracker = config.report_to if rank() == 0 else "none"
        check_installed(tracker)
        self.reporter = reporter or Reporter(config.steps)
        self.problems = load_problems(config)
        seed_everything(config.seed, 0)
        self.learner = build_learner(config)
        self.step = self._recorded = 0
        self.stop_requested = self._warned = False
        self.ledger = Ledger()
        self.num_tokens = 0
        if resume is not None:
            restored = restore_run(config, self.problems, self.learner, resume)
            self.step, self.ledger, self.num_tokens = restored
            self._recorded = self.step
        self.log = MetricsLog(config.folder, tracker, config)
        try:
            self.sampler = build_sampler(config, self.problems, self.learner)
        except BaseException:
            self.log.close()
            raise
        try:
            task, prompts, engine = self.problems.task, self.sampler.train, self.sampler.engine
            self.reporter.prompt_counts = lambda: (
                engine.stats.prompt_tokens, engine.stats.cached_tokens,
            )  # fmt: skip
            setup = Setup(
                config, self.sampler.simulator, task, prompts, self.read_out, self.reporter
            )
            self.algorithm = make_algorithm(config, setup)
            for note in task.notes():
                self.reporter.message(note)
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
            If the run cannot continue. The steps completed before are in a checkpoint.
        """
        records = []
        if self.step == 0:
            # A checkpoint of the initial state, for an interruption before the first save.
            self.save()
            if self.config.evaluation.steps:
                records.append(self._record(0, self.evaluate(0)))
        stop = self.stopping()
        while not (self.finished or stop):
            try:
                records.append(self.train_step())
            except (Exception, SystemExit) as error:  # rich raises SystemExit if the pipe is closed
                if still_together(error):
                    self._save_complete_step()
                raise
            stop = self.stopping()  # a signal that arrives later counts after the next step
            if stop or self.finished or self.step % self.config.save_steps == 0:
                self.save()
                stop = self.stopping()
        return records

    def stopping(self) -> bool:
        """Whether any process was asked to stop (collective)."""
        return any(gather(self.stop_requested))

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the token budget is spent."""
        budget = self.config.token_budget
        spent = self.ledger.steps + self.ledger.localizer_cost
        return self.step >= self.config.steps or (budget is not None and spent >= budget)

    def close(self) -> None:
        """Close the engine and the metrics log."""
        self.sampler.engine.close()
        self.log.close()

    def train_step(self) -> dict[str, float]:
        """Run one step: sample, update, synchronise the engine, evaluate, record."""
        config, engine, step = self.config, self.sampler.engine, self.step + 1
        began = time.perf_counter()
        seed_everything(config.seed, step)
        batch = self.batch(step)
        engine.sleep()  # frees its memory for the update
        rows, metrics = batch.rows, dict(batch.metrics)
        metrics["verifier/failure_rate"] = self._failure_rate()
        metrics.update(self.sampler.simulator.take_rewards())
        metrics.update(self._update(step, batch))
        self._warn_off_policy(step, metrics)
        self.step = step
        self.ledger = self.ledger + batch.ledger
        self.num_tokens += sum(len(row.ids) for row in rows)
        failure = None
        try:
            engine.wake()
            self.sync()
            if config.evaluation.steps and (step % config.evaluation.steps == 0 or self.finished):
                metrics.update(self.evaluate(step))
        except EngineError as error:
            failure = error  # raised after the completed step is recorded
        if config.rollout_steps and step % config.rollout_steps == 0:
            on_main_process(lambda: self._write_rollouts(step, batch))
        metrics["num_tokens"] = self.num_tokens
        metrics.update({f"ledger/{name}": n for name, n in self.ledger.to_json().items()})
        metrics["step_time"] = time.perf_counter() - began
        metrics.update(self.reporter.clear_timings())
        record = self._record(step, metrics)
        if failure is not None:
            raise failure
        return record

    def batch(self, step: int) -> Batch:
        """Training batch of a step: a function of (seed, step) and of the engine's weights."""
        config = self.config
        problems = len(self.problems.train)
        indices = prompt_indices(config.seed, step, config.prompts_per_step, problems)
        return self.algorithm.batch(step, indices, generator(config.seed, step, COLLECT))

    def _update(self, step: int, batch: Batch) -> dict[str, float]:
        """Take the optimizer steps on a batch; returns their metrics."""
        config, rows = self.config, batch.rows
        trained = sum(row.trained for row in rows if row.moves(config.loss.beta))
        trained *= config.update.num_iterations
        try:
            with self.reporter.stage("train", trained) as stage:
                rng = generator(config.seed, step, UPDATE)
                return self.learner.updater(rows, rng, stage.advance)
        except TrainingError as error:
            path = config.folder / f"diagnosis-step-{step:06}.json"
            if rank() == 0:
                path.write_text(json.dumps(error.diagnosis, indent=2) + "\n")
            error.args = (f"step {step}: {error}; see {path}",)
            raise

    def _warn_off_policy(self, step: int, metrics: dict[str, float]) -> None:
        """Warn, once a run, of an update on another policy than the engine's."""
        complaint = off_policy(metrics)
        if complaint and not self._warned:
            self.reporter.message(f"warning: step {step}: {complaint}")
            self._warned = True

    def read_out(self, prompts: Sequence[Prompt]) -> Readout:
        """Exact values of the policy on chain reasoning."""
        learner = self.learner
        return read_out(
            learner.logprobs, learner.tokenizer, self.problems.task, prompts, learner.updater.device
        )

    def sync(self) -> None:
        """Send the weights of the policy, or its adapters, to the engine."""
        engine = self.sampler.engine
        engine.sync_weights(self.learner.weights(engine.dtype))

    def check_parity(self) -> None:
        """Compare log-probs of engine and trainer on a few samples; raises if they differ."""
        parity = check_parity(
            self.sampler.engine,
            self.learner.logprobs,
            [prompt.ids for prompt in self.sampler.train[:4]],
            temperature=self.config.sampling.temperature,
            top_p=self.config.sampling.top_p,
            device=self.learner.updater.device,
        )
        self.reporter.message(str(parity))
        reason = self.learner.updater.why_not_shared
        if reason and self.config.update.share_prefixes:
            self.reporter.message(f"prefixes of rows are not shared: {reason}")

    def evaluate(self, step: int) -> dict[str, float]:
        """pass@1 and pass@k on held-out problems, with the same random numbers every time."""
        rng = generator(self.config.seed, 0, EVALUATE)
        samples = self.config.evaluation.samples
        metrics = evaluate(self.sampler.simulator, self.sampler.test, samples, rng)
        rewards = {f"eval/{name}": v for name, v in self.sampler.simulator.take_rewards().items()}
        return {**metrics, **rewards, "eval/verifier/failure_rate": self._failure_rate()}

    # ------------------------------------------------------------------ files

    def save(self) -> Path:
        """Write a checkpoint of the current step."""
        return save_run(
            self.config, self.problems, self.learner, self.step, self.ledger, self.num_tokens
        )

    def _save_complete_step(self) -> None:
        """Save after a failure, unless a step is half done or not recorded."""
        if self._recorded == self.step and self.learner.updater.between_batches:
            with contextlib.suppress(CheckpointError):  # the original failure is reported
                self.save()

    def _write_rollouts(self, step: int, batch: Batch) -> None:
        """Write the rollouts of a step, and report its completions."""
        records = batch.records()
        write_rollouts(self.config.folder, step, records)
        self.log.completions(step, records)

    def _record(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        record = on_main_process(lambda: self.log.write(step, metrics))
        self._recorded = step
        self.reporter.step(step, metrics)
        return record

    def _failure_rate(self) -> float:
        """Share of episodes since the last call that could not be verified."""
        verified, unverified = self.sampler.simulator.take_verification_counts()
        return len(unverified) / verified if verified else 0.0


def seed_everything(seed: int, step: int) -> None:
    """Seed the global generators, for dropout and for a user's code."""
    key = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(key)
    np.random.seed(key)  # noqa: NPY002
    torch.manual_seed(key)
