"""`python -m llm.exact RUN`: what theory says of a training run, beside what happened.

Chain reasoning is a chain MDP, so the step policy of each checkpoint can be read out
(`llm.readout`), and what `cpi` computes of it is exact: J, V, A, p_π(τ), certificates. What
training gained from one checkpoint to the next is told in three ways (`llm.gains`): predicted, by
the first-order gain at the old occupancy and the interval that theory guarantees; exact; and
measured, by sampled completions. Those also tell where the run's localizer would reset.

Reading out and sampling are both in float32, whatever the run computed in.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpi.bounds.registry import Update
from cpi.improvement import coverage, improvable_mask, visit_probability
from cpi.results import check_writable, write_json
from cpi.tables import console
from cpi.values import Evaluation, evaluate, tolerance
from envs.tabular import FloatArray
from llm.exact_report import ERROR, ExactReport, Gain, Row
from llm.gains import (
    Estimate,
    certificate,
    largest_met,
    measured_gain,
    predicted_gain,
    proportion,
    reset_quality,
    threshold,
)
from llm.ours import check_package

if TYPE_CHECKING:
    from cpi.episodes import Episode
    from cpi.resets import Localizer
    from llm.config import TrainConfig
    from llm.readout import Readout

PROG = "python -m llm.exact"

#: Completions of each problem; completions between two signs of progress.
SAMPLES, CHUNK = 32, 1024

#: Keys of the random streams. They are the same at each checkpoint: only the policy differs.
SAMPLE, LOCALIZE = range(2)

EPILOG = """\
examples:
  python -m llm.exact runs/chain-srpo-s0
  python -m llm.exact runs/chain-srpo-s0 --tau 0.1 --samples 256 --json exact.json

The run must be on chain reasoning with verify="steps", and have kept its checkpoints:
  python -m llm.train --config chain --model MODEL --save_steps 5 --save_total_limit 99

improvement since the checkpoint before, π → π':
  exact      J(π') − J(π), from the probabilities of right steps
  predicted  L = H·E[a] over the states that π visits, a = E_π' A^π the advantage of π', and the
             interval L ± Σ_h span(a_h)·min(1, Σ_{t<h} E TV(π'_t, π_t)), which no pair of policies
             leaves (Kakade & Langford 2002, Lemma 6.1); it does not look at where π' goes
  measured   difference of sampled success rates, problems fixed, the same random numbers for both;
             Clopper-Pearson intervals, all of them right at once with probability 95 %

resets, from failed episodes among the samples:
  precision  share of the localizer's weight that lies on improvable steps (advantage above τ)
  recall     weight on improvable steps over their frequency p_π(τ), failed episode or not
  hits       share of its resets that are at the first wrong step
  no step    share of the replies of a prompted model that name no step: all weigh 1 then
  certified  gain p·t·q·τ²/(2H) that one conservative step from here is sure of, with recall t and
             precision q: 1 and p for random resets, 1 and 1 for an oracle that knows I_τ. Training
             takes other, larger steps; `gained` is what the next ones made of it

The exit code is 0; 1 if an exact improvement lies outside the predicted interval, which would be a
mistake in theory or code; 2 for bad input.
"""


class Policies:
    """The policies of a run, one checkpoint at a time: read out, sampled, asked where to reset."""

    def __init__(self, config: TrainConfig, problems: int | None) -> None:
        from llm.engines import make_engine
        from llm.models import eos_token_ids, load_policy, load_tokenizer, locate
        from llm.readout import check_sampling, exact_task, step_mdp
        from llm.tasks import make_task
        from llm.thoughts import ThoughtSimulator

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
        """Become the policy of a checkpoint; its exact values."""
        from llm import checkpoints
        from llm.logprobs import completion_logprobs
        from llm.models import load_trainable, merged_state_dict
        from llm.readout import read_out, step_policy

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
        """`n` episodes of each problem, by the same random numbers at each checkpoint."""
        from cpi.episodes import Prefix

        rng = np.random.default_rng([self.config.seed, SAMPLE])
        groups: list[list[Episode]] = []
        size = max(1, CHUNK // n)
        for at in range(0, len(self.prompts), size):
            part = [Prefix(prompt) for prompt in self.prompts[at : at + size]]
            groups += self.simulator.rollout(part, n, rng)
            progress(len(groups) / len(self.prompts))
        return groups

    def localize(self, episodes: Sequence[Episode]) -> tuple[list[FloatArray], float | None]:
        """Weights of the run's localizer; the share of a model's replies that name no step."""
        from llm.localizers import PromptedLocalizer, make_localizer

        options = self.config.localization
        rng = np.random.default_rng([self.config.seed, LOCALIZE])
        prompted = PromptedLocalizer(
            self.engine, self.tokenizer, self.task, rng, options.temperature, options.max_tokens,
            self.eos,
        )  # fmt: skip
        localizer = make_localizer(self.config.localizer, prompted, self.task)
        weights = reset_weights(localizer, episodes)
        return weights, prompted.failed / prompted.asked if prompted.asked else None


def reset_weights(localizer: Localizer, episodes: Sequence[Episode]) -> list[FloatArray]:
    """A localizer's weights for failed episodes, as chances in [0, 1]; 0 for the others.

    If one is above 1, all are divided by the largest.
    """
    from cpi.resets import SelfReset

    failed = [episode for episode in episodes if episode.failed]
    verdicts = SelfReset(localizer).weights(failed) if failed else []
    largest = max([1.0, *(float(w.max()) for w in verdicts)])
    found = iter(verdicts)
    return [next(found) / largest if e.failed else np.zeros(e.length) for e in episodes]


def exact_bridge(
    run: Path,
    tau: float | None = None,
    samples: int = SAMPLES,
    problems: int | None = None,
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> ExactReport:
    """Exact, predicted and measured improvement of every checkpoint of a run, and its resets.

    Parameters
    ----------
    run : Path
        The run's folder.
    tau : float, optional
        Threshold τ of improvable states; by default half the largest advantage that the first
        checkpoint meets. One for all checkpoints.
    samples : int
        Completions of each problem at each checkpoint.
    problems : int, optional
        How many held-out problems; by default as many as the run was evaluated on.
    progress : function of (share done, what is done)

    Raises
    ------
    ValueError, OSError, llm.checkpoints.CheckpointError
        If there is nothing to load, or nothing exact to say.
    """
    from llm import checkpoints
    from llm.config import parse_config
    from llm.run_folder import environment

    if samples < 1:
        raise ValueError(f"samples: {samples} is not a whole number ≥ 1")
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: no config.yaml in it; name the folder of a training run")
    found = checkpoints.complete(run / "checkpoints")
    if not found:
        raise ValueError(f"{run}: no checkpoints/step-* in it, so there is no policy to read out")
    config = parse_config([f"--config={run / 'config.yaml'}"], PROG)
    policies = Policies(config, problems)
    rows: list[Row] = []
    before: tuple[Evaluation, NDArray[np.bool_]] | None = None
    for number, (step, path) in enumerate(found.items()):

        def sampled(share: float, number: int = number, step: int = step) -> None:
            progress((number + share) / len(found), f"step {step}")

        sampled(0.0)
        readout, base = policies.load(path)
        if before is None:
            tau = threshold(base, tau)
        assert tau is not None
        groups = policies.sample(samples, sampled)
        solved = np.array([[not episode.failed for episode in group] for group in groups])
        gain = None
        if before is not None:
            delta = ERROR / (len(found) - 1)
            gain = Gain(
                base.J - before[0].J,
                predicted_gain(Update(before[0], base.policy), len(groups)),
                measured_gain(before[1], solved, delta),
            )
        success = proportion(int(solved.sum()), solved.size, ERROR / len(found))
        rows.append(judge(policies, step, readout, base, tau, groups, success, gain))
        before = base, solved
    assert tau is not None
    return ExactReport(
        str(run), policies.task.length, [prompt.example.id for prompt in policies.prompts],
        samples, tau, config.localizer, tolerance(policies.mdp), rows, asdict(config),
        environment(),
    )  # fmt: skip


def judge(
    policies: Policies,
    step: int,
    readout: Readout,
    base: Evaluation,
    tau: float,
    groups: Sequence[Sequence[Episode]],
    success: Estimate,
    gain: Gain | None,
) -> Row:
    """The row of a checkpoint: what is known of its policy, and of resets from it."""
    from cpi.resets import OracleReset
    from llm.localization import first_error
    from llm.readout import ExactOracle

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    check_package(PROG)
    parser = make_parser()
    args = parser.parse_args(argv)
    # Before torch is loaded: idle threads sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.progress import Progress
    from transformers.utils import logging

    from llm.checkpoints import CheckpointError
    from llm.engines import EngineError

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    err = console(sys.stderr)
    bars = Progress(console=err, transient=True, disable=not err.is_terminal)
    bar = bars.add_task("loading", total=1.0)

    def show(share: float, what: str) -> None:
        if bars.disable and what != bars.tasks[0].description:
            err.print(what)  # a bar needs a terminal
        bars.update(bar, completed=share, description=what)

    try:
        if args.json is not None:
            check_writable(args.json)
        with bars:
            report = exact_bridge(args.run, args.tau, args.samples, args.problems, show)
        out = console()
        out.print(report)
        out.print(report.verdict(), style="bold")
        if args.json is not None:
            write_json(args.json, report.to_json())
            out.print(f"Written to {args.json}", markup=False)
    except (ValueError, OSError, CheckpointError, EngineError) as error:
        print(f"{PROG}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted, nothing is written", file=sys.stderr)
        return 130
    return int(report.violations > 0)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="The exact bridge: exact values of every checkpoint of a chain-reasoning run, "
        "and\nwhat training gained from each to the next: predicted, exact, measured.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder")
    add(
        "--tau",
        type=float,
        metavar="T",
        help="threshold of improvable states (default: half the largest advantage that the first "
        "checkpoint meets)",
    )
    add(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"completions of each problem at each checkpoint (default: {SAMPLES})",
    )
    add("--problems", type=int, metavar="P", help="held-out problems (default: the run's)")
    add("--json", type=Path, metavar="FILE", help="also write everything to FILE")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
