"""Exact, predicted and measured improvement of every checkpoint of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpi.exact.improvement import coverage, improvable_mask, visit_probability
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate, tolerance
from envs.tabular import FloatArray
from llm.common.statistics import Estimate, proportion
from llm.exact.gains import (
    certificate,
    largest_met,
    measured_gain,
    predicted_gain,
    reset_quality,
    threshold,
)
from llm.exact.report import (
    ERROR,
    ExactReport,
    Gain,
    Row,
)

if TYPE_CHECKING:
    from cpi.core.episodes import Episode
    from cpi.core.resets import Localizer
    from llm.chain.readout import Readout
    from llm.config.train import TrainConfig


#: Completions between two progress updates.
CHUNK = 1024


#: Keys of the random numbers, which are the same at each checkpoint: only the policy differs.
SAMPLE, LOCALIZE = range(2)


class Policies:
    """Policies of a run, loaded one checkpoint at a time: read-out, samples and reset weights."""

    def __init__(self, config: TrainConfig, problems: int | None) -> None:
        from llm.chain.readout import check_sampling, exact_task, step_mdp
        from llm.engines import make_engine
        from llm.models.policy import eos_token_ids, load_policy, load_tokenizer
        from llm.models.shipped import locate
        from llm.tasks import make_task
        from llm.thoughts.simulator import ThoughtSimulator

        self.config = config
        self.task = exact_task(make_task(config.task, **config.task_args))
        examples = self.task.examples("test")
        if problems is not None and not 1 <= problems <= len(examples):
            raise ValueError(f"problems: {problems}, but the task has 1 to {len(examples)} to test")
        model = locate(config.model)
        self.tokenizer = load_tokenizer(model)
        self.policy = load_policy(model, lora=config.lora).eval()
        self.eos = eos_token_ids(self.policy)
        self.engine = make_engine("transformers", model, bf16=False, seed=config.seed)
        sampling = config.sampling
        self.simulator = ThoughtSimulator(
            self.engine, self.tokenizer, self.task, sampling.limits(), sampling.temperature,
            sampling.top_p, self.eos,
        )  # fmt: skip
        chosen = examples[: problems or config.evaluation.problems]
        self.prompts = [self.simulator.prompt(example) for example in chosen]
        self.mdp = step_mdp(self.task, self.prompts)
        check_sampling(sampling, self.tokenizer, self.task, self.prompts)

    def load(self, checkpoint: Path) -> tuple[Readout, Evaluation]:
        """Load a checkpoint; return its read-out and exact values."""
        from llm.chain.readout import read_out, step_policy
        from llm.models.logprobs import completion_logprobs
        from llm.models.policy import load_trainable, merged_state_dict
        from llm.runs import checkpoints

        load_trainable(self.policy, checkpoints.load(checkpoint, ["model"]).tensors["model"])
        self.engine.sync_weights(merged_state_dict(self.policy, self.engine.dtype))
        readout = read_out(
            lambda batch: completion_logprobs(
                self.policy, batch.input_ids, batch.attention_mask, batch.mask,
                temperature=self.config.sampling.temperature,
            ),
            self.tokenizer, self.task, self.prompts, next(self.policy.parameters()).device,
        )  # fmt: skip
        return readout, evaluate(self.mdp, step_policy(self.task, self.prompts, readout.q))

    def sample(self, n: int, progress: Callable[[float], None]) -> list[list[Episode]]:
        """Sample `n` episodes per problem, with the same random numbers at each checkpoint."""
        from cpi.core.episodes import Prefix

        rng = np.random.default_rng([self.config.seed, SAMPLE])
        groups: list[list[Episode]] = []
        size = max(1, CHUNK // n)
        for at in range(0, len(self.prompts), size):
            prefixes = [Prefix(prompt) for prompt in self.prompts[at : at + size]]
            groups += self.simulator.rollout(prefixes, n, rng)
            progress(len(groups) / len(self.prompts))
        return groups

    def localize(self, episodes: Sequence[Episode]) -> tuple[list[FloatArray], float | None]:
        """Reset weights of the run's localizer, and the share of replies that name no step."""
        from llm.resets.localizers import make_localizer
        from llm.resets.prompted import PromptedLocalizer

        rng = np.random.default_rng([self.config.seed, LOCALIZE])
        prompted = PromptedLocalizer(self.simulator, rng, self.config.localization)
        localizer = make_localizer(self.config.localizer, self.task, prompted)
        weights = reset_weights(localizer, episodes)
        return weights, prompted.failed / prompted.asked if prompted.asked else None


def reset_weights(localizer: Localizer, episodes: Sequence[Episode]) -> list[FloatArray]:
    """A localizer's weights for failed episodes, scaled to [0, 1]; 0 for the other episodes.

    If a weight is above 1, all are divided by the largest.
    """
    from cpi.core.resets import SelfReset

    failed = [episode for episode in episodes if episode.failed]
    failed_weights = SelfReset(localizer).weights(failed) if failed else []
    largest = max([1.0, *(float(w.max()) for w in failed_weights)])
    remaining = iter(failed_weights)
    return [next(remaining) / largest if e.failed else np.zeros(e.length) for e in episodes]


def exact_bridge(
    run: Path,
    tau: float | None = None,
    samples: int = 32,
    problems: int | None = None,
    progress: Callable[[float, str], None] = lambda share, phase: None,
) -> ExactReport:
    """Exact, predicted and measured improvement of every checkpoint of a run, and its resets.

    Parameters
    ----------
    run : Path
        Folder of the run.
    tau : float, optional
        Threshold τ of improvable states, one for all checkpoints. By default half the largest
        advantage in the states that the first checkpoint visits.
    samples : int
        Completions per problem and checkpoint.
    problems : int, optional
        Number of held-out problems; by default as many as the run was evaluated on.
    progress : function of (share done, current phase)

    Raises
    ------
    ValueError, OSError, llm.runs.checkpoints.CheckpointError
        If no checkpoint can be loaded, or the run has no exact values.
    """
    from llm.config.train import parse_config
    from llm.runs.checkpoint_folders import checkpoints_of
    from llm.runs.folder import environment

    if samples < 1:
        raise ValueError(f"samples: {samples} is not a whole number ≥ 1")
    checkpoints = checkpoints_of(run)
    config = parse_config([f"--config={run / 'config.yaml'}"], "llm.exact")
    policies = Policies(config, problems)
    rows: list[Row] = []
    previous: tuple[Evaluation, NDArray[np.bool_]] | None = None
    for number, (step, path) in enumerate(checkpoints.items()):

        def show_share(share: float, number: int = number, step: int = step) -> None:
            progress((number + share) / len(checkpoints), f"step {step}")

        show_share(0.0)
        readout, base = policies.load(path)
        if previous is None:
            tau = threshold(base, tau)
        assert tau is not None
        groups = policies.sample(samples, show_share)
        solved = np.array([[not episode.failed for episode in group] for group in groups])
        gain = None
        if previous is not None:
            delta = ERROR / (len(checkpoints) - 1)
            gain = Gain(
                base.J - previous[0].J,
                predicted_gain(Update(previous[0], base.policy), len(groups)),
                measured_gain(previous[1], solved, delta),
            )
        success = proportion(int(solved.sum()), solved.size, ERROR / len(checkpoints))
        rows.append(checkpoint_row(policies, step, readout, base, tau, groups, success, gain))
        previous = base, solved
    assert tau is not None
    return ExactReport(
        str(run), policies.task.length, [prompt.example.id for prompt in policies.prompts],
        samples, tau, config.localizer, tolerance(policies.mdp), rows, asdict(config),
        environment(),
    )  # fmt: skip


def checkpoint_row(
    policies: Policies,
    step: int,
    readout: Readout,
    base: Evaluation,
    tau: float,
    groups: Sequence[Sequence[Episode]],
    success: Estimate,
    gain: Gain | None,
) -> Row:
    """Row of a checkpoint: exact values of its policy and quality of its resets."""
    from cpi.core.resets import OracleReset
    from llm.chain.readout import ExactOracle
    from llm.resets.oracles import first_error

    task = policies.task
    improvable = improvable_mask(base, tau)
    p = coverage(base, improvable)
    episodes = [episode for group in groups for episode in group]
    weights, unusable = policies.localize(episodes)
    oracle = OracleReset(ExactOracle(task, readout, policies.prompts), "improvable", tau)
    errors = [first_error(task, episode) for episode in episodes]
    resets = reset_quality(weights, oracle.weights(episodes), errors, task.length, p)
    certified = {
        "random": certificate(base, p, 1.0, p, tau),
        "localizer": certificate(base, p, resets.recall, resets.precision, tau),
        "oracle": certificate(base, p, 1.0, 1.0, tau),
    }
    return Row(
        step, base.J, success, largest_met(base), p, visit_probability(base, improvable), gain,
        resets, unusable, certified, readout.q.tolist(),
    )  # fmt: skip
