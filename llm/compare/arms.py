"""Arms and regimes of `llm.compare`, and the settings of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cpi.core.plans import GroupPlan
from cpi.signal import compare as exact_worth
from cpi.signal import speed
from llm.config.baselines import ScoreOptions, SPOTreeOptions, VinePPOOptions
from llm.config.train import EvaluationOptions, PlanOptions, TrainConfig
from llm.learner.options import LossConfig, OptimizerOptions, UpdateOptions
from llm.models.lora import LoraOptions
from llm.resets.options import LocalizationOptions, OracleOptions
from llm.thoughts.options import SamplingOptions


@dataclass(frozen=True)
class Arm:
    """Arm of the comparison: an algorithm, a localizer and a plan of rollouts.

    Attributes
    ----------
    algorithm, localizer : str
    mask : str
        Mask of the oracle.
    tau : float
        Threshold of the mask "improvable".
    plan : PlanOptions
    rate : float
        Factor on the common learning rate.
    lora_r : int
        Rank of LoRA adapters; 0 for none.
    more : function of a Regime
        Further settings in that regime, by their names in `TrainConfig`.
    """

    algorithm: str
    localizer: str = "checker"
    mask: str = "first_error"
    tau: float = 0.0
    plan: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    rate: float = 1.0
    lora_r: int = 0
    more: Callable[[Regime], dict[str, Any]] = lambda regime: {}


#: One fresh group and two reset groups, from the failures with the latest errors or any failures.
DEEPEST = PlanOptions(fresh=4, resets=2, per_reset=4, choice="deepest")
RANDOM = PlanOptions(fresh=4, resets=2, per_reset=4, choice="random")
#: All rollouts from one reset; the seed episode is not trained on.
ONE = PlanOptions(fresh=0, resets=1, per_reset=8)

ARMS: dict[str, Arm] = {
    "grpo": Arm("grpo"),
    "rrpo": Arm("rrpo"),
    "srpo-prompted": Arm("srpo", "prompted"),
    "srpo-surprisal": Arm("srpo", "surprisal"),
    "oracle-first_error": Arm("oracle"),
    "oracle-improvable": Arm("oracle", mask="improvable", tau=0.1),
    "oracle-largest": Arm("oracle", mask="largest"),
    "random-rrpo": Arm("rrpo", plan=RANDOM),
    "random-checker": Arm("oracle", plan=RANDOM),
    "deepest-rrpo": Arm("rrpo", plan=DEEPEST),
    "deepest-surprisal": Arm("srpo", "surprisal", plan=DEEPEST),
    "deepest-prompted": Arm("srpo", "prompted", plan=DEEPEST),
    "deepest-checker": Arm("oracle", plan=DEEPEST),
    "one-prompted": Arm("srpo", "prompted", plan=ONE),
    "one-checker": Arm("oracle", plan=ONE),
    # May keep the prompted localizer accurate, which degrades as the model learns to solve.
    "srpo-prompted-slow": Arm("srpo", "prompted", rate=0.25),
    "srpo-prompted-lora": Arm("srpo", "prompted", lora_r=16),
}


def _adaptive(localizer: str, candidates: int | None, equal_cost: bool) -> Arm:
    plan = PlanOptions(candidates=candidates, equal_cost=equal_cost)
    return Arm("adaptive", localizer, plan=plan)


#: Adaptive resets: where all eight rollouts of a prompt fail. They run only if `--arms` names them.
#: A checker is never wrong, so the deepest of all failures is reset. Localizers that err choose
#: between two, or take any failure, as halving does. First is the control: the same groups, drawn
#: afresh. Equal: a step costs what the fresh groups of its prompts would, with fewer prompts.
ADAPTIVE: dict[str, Arm] = {
    "adaptive-checker": _adaptive("checker", 0, False),
    "adaptive-halving": _adaptive("halving", 1, False),
    "adaptive-first": _adaptive("first", 1, False),
    "adaptive-surprisal": _adaptive("surprisal", None, False),
    "adaptive-prompted": _adaptive("prompted", None, False),
    "adaptive-any-surprisal": _adaptive("surprisal", 1, False),
    "adaptive-any-prompted": _adaptive("prompted", 1, False),
    "equal-checker": _adaptive("checker", 0, True),
    "equal-prompted": _adaptive("prompted", None, True),
    "equal-any-prompted": _adaptive("prompted", 1, True),
    "equal-surprisal": _adaptive("surprisal", None, True),
    "equal-first": _adaptive("first", 1, True),
}

#: Other methods, with the settings of the presets. They train on eight rollouts per prompt, or on a
#: tree of eight leaves. They run only if `--arms` names them.
BASELINES: dict[str, Arm] = {
    "dapo": Arm(
        "grpo",
        more=lambda _: {
            "loss": LossConfig("dapo", epsilon_high=0.28),  # never clips on policy
            "update": UpdateOptions(mask_truncated_completions=True),
            "dynamic_sampling": 3,
        },
    ),
    # Two segments: the first half of the steps (two tokens each), and the rest.
    "spo-tree": Arm(
        "spo_tree",
        more=lambda regime: {"spo_tree": SPOTreeOptions([4, 2], 2 * math.ceil(regime.length / 2))},
    ),
    # Stage I gets about half of the tokens: eight rollouts per prompt, of the steps and an answer.
    "score": Arm(
        "score",
        more=lambda regime: {
            "score": ScoreOptions(
                stage1_steps=regime.token_budget
                // (2 * 8 * regime.prompts_per_step * (2 * regime.length + 1))
            )
        },
    ),
    "critique-grpo": Arm("critique_grpo"),
    "vineppo": Arm("vineppo"),
    # The paper's 8 completions and 9 rollouts leave few steps of the token budget.
    "vineppo-small": Arm("vineppo", more=lambda _: {"vineppo": VinePPOOptions(2, 3)}),
}

#: Arms that can no longer be run, but whose records are still read. Rehearsal added the likelihood
#: of texts that localize errors to the loss. It was worse in all nine comparisons.
RETIRED = ("srpo-prompted-rehearsal",)

#: Every arm with records, in table order.
RECORDED = (*ARMS, *RETIRED, *ADAPTIVE, *BASELINES)

#: Arms that can be run.
KNOWN = ARMS | ADAPTIVE | BASELINES

#: Arms, rates and seeds for the choice of the learning rate.
TUNING_ARMS = ("grpo", "rrpo", "oracle-first_error")
TUNING_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
TUNING_SEEDS = (1000, 1001, 1002, 1003)


@dataclass(frozen=True)
class Regime:
    """Problems of one length, with the prediction that theory made before any run.

    Parameters
    ----------
    length : int
        Steps n of a problem; the base model gets each right about half the time.
    token_budget : int
        Tokens that every run generates.
    prediction : str
        Worth of one collection of the first-error oracle (4 + 1×4), in GRPO collections at equal
        generated steps, by `cpi.signal` at q = ½.
    prompts_per_step : int
    arms : tuple of str
        Default arms in this regime.
    """

    length: int
    token_budget: int
    prediction: str
    prompts_per_step: int = 8
    arms: tuple[str, ...] = tuple(ARMS)


#: Arms that show whether it pays to reset the failures with the latest errors.
LATEST = (
    "grpo", "rrpo", "srpo-prompted", "oracle-first_error", "random-rrpo", "random-checker",
    "deepest-rrpo", "deepest-surprisal", "deepest-prompted", "deepest-checker",
)  # fmt: skip

#: The first three were chosen by theory before any run. The last was chosen after early trials in
#: which such resets paid.
REGIMES: dict[str, Regime] = {
    "short": Regime(3, 15_000, "GRPO ahead (0.78)"),
    "middle": Regime(4, 25_000, "no difference (0.96)"),
    "long": Regime(8, 120_000, "first-error resets ahead (1.43)"),
    "few": Regime(8, 120_000, "first-error resets ahead (1.43)", prompts_per_step=4, arms=LATEST),
}

#: Every regime that can be run. On the last, which runs only if `--regimes` names it, nothing was
#: tuned or chosen: it tests what the others and their seeds suggested.
KNOWN_REGIMES: dict[str, Regime] = REGIMES | {
    "six": Regime(6, 60_000, "first-error resets ahead (1.22)")
}

#: Learning rate of all arms in all regimes: the largest at which all runs of `--tune` end above ½.
#: A common rate was chosen after 9 of 144 runs of *middle* had failed at 1e-3, its best mean.
LEARNING_RATE = 5e-4
#: With AdamW's default of 1e-8, the first signal after steps without one moves every weight by a
#: full step. In a quarter of early runs on long problems, such a step ended all success.
ADAM_EPSILON = 1e-4
#: More steps than a run can reach; the token budget ends it earlier.
MANY = 100_000


def run_config(
    arm: Arm, regime: Regime, model: str, learning_rate: float, seed: int
) -> TrainConfig:
    """Settings of a run; those that do not define the arm are the same for all arms."""
    n = regime.length
    return TrainConfig(
        model=model,
        algorithm=arm.algorithm,
        localizer=arm.localizer,
        task="chain",
        task_args={"length": n, "train": 192, "test": 64},
        steps=MANY,
        token_budget=regime.token_budget,
        prompts_per_step=regime.prompts_per_step,
        seed=seed,
        save_steps=MANY,
        rollout_steps=0,
        plan=arm.plan,
        sampling=SamplingOptions(
            max_completion_length=3 * n + 6, max_thoughts=n + 2, max_thought_tokens=8
        ),
        localization=LocalizationOptions(max_tokens=2 * n + 4),
        oracle=OracleOptions(arm.mask, arm.tau),  # type: ignore[arg-type]
        optimizer=OptimizerOptions(
            learning_rate=arm.rate * learning_rate, adam_epsilon=ADAM_EPSILON
        ),
        lora=LoraOptions(r=arm.lora_r),
        evaluation=EvaluationOptions(steps=0),
        **arm.more(regime),
    )


#: Plans of which theory has exact moments, with the rule of `cpi.signal.chain_moments`. None is a
#: localizer whose accuracy must be measured.
THEORY: dict[str, tuple[GroupPlan, str | None]] = {
    "rrpo": (GroupPlan(4, 1, 4), "rrpo"),
    "srpo-prompted": (GroupPlan(4, 1, 4), None),
    "srpo-surprisal": (GroupPlan(4, 1, 4), None),
    "oracle-first_error": (GroupPlan(4, 1, 4), "oracle"),
    "random-rrpo": (GroupPlan(4, 2, 4), "rrpo"),
    "random-checker": (GroupPlan(4, 2, 4), "oracle"),
    "one-prompted": (GroupPlan(0, 1, 8), None),
    "one-checker": (GroupPlan(0, 1, 8), "oracle"),
    "adaptive-checker": (GroupPlan(8, 1, 4, choice="deepest", retries=4), "oracle"),
    "adaptive-halving": (GroupPlan(8, 1, 4, retries=4), "halving"),
    "adaptive-first": (GroupPlan(8, 1, 4, retries=4), "first"),
    "adaptive-surprisal": (GroupPlan(8, 1, 4, "failed", "deepest", 2, 4), None),
    "adaptive-prompted": (GroupPlan(8, 1, 4, "failed", "deepest", 2, 4), None),
    "adaptive-any-surprisal": (GroupPlan(8, 1, 4, retries=4), None),
    "adaptive-any-prompted": (GroupPlan(8, 1, 4, retries=4), None),
    "equal-checker": (GroupPlan(8, 1, 4, choice="deepest", retries=4), "oracle"),
    "equal-prompted": (GroupPlan(8, 1, 4, "failed", "deepest", 2, 4), None),
    "equal-any-prompted": (GroupPlan(8, 1, 4, retries=4), None),
    "equal-surprisal": (GroupPlan(8, 1, 4, "failed", "deepest", 2, 4), None),
    "equal-first": (GroupPlan(8, 1, 4, retries=4), "first"),
}


def predicted(arm: str, length: int, q: float = 0.5, accuracy: float | None = None) -> float | None:
    """Worth of an arm's collection in GRPO collections at equal steps; None if unknown.

    `accuracy` is the share of a localizer's resets that are at the first error.
    """
    known = _theory(arm, accuracy)
    return None if known is None else float(exact_worth(length, q, {arm: known})[arm][1])


def predicted_speed(
    arm: str, regime: Regime, q: float = 0.5, accuracy: float | None = None
) -> float | None:
    """Gain of an arm's updates of equal length per token, over GRPO's; None if unknown.

    Arms of equal cost use fewer prompts a step.
    """
    known = _theory(arm, accuracy)
    if known is None:
        return None
    equal = bool(KNOWN[arm].plan.equal_cost)
    return speed(regime.length, q, *known, regime.prompts_per_step, equal_cost=equal)


def _theory(arm: str, accuracy: float | None) -> tuple[GroupPlan, str | float] | None:
    plan, rule = THEORY.get(arm, (None, None))
    chosen = accuracy if rule is None else rule
    return None if plan is None or chosen is None else (plan, chosen)
