"""Settings of a training run: one dataclass, read from YAML files and flags."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpi.core.advantages import Scale
from cpi.core.plans import ALGORITHMS, GroupPlan
from cpi.reporting.options import underscored
from llm.common.arguments import kinds_of, with_argument
from llm.common.plugins import import_object
from llm.config.algorithms import CLASSES, check_algorithm
from llm.config.baselines import (
    AlgorithmOptions,
    CritiqueGRPOOptions,
    ScoreOptions,
    SPOTreeOptions,
    VinePPOOptions,
)
from llm.config.command_line import parse
from llm.config.presets import presets
from llm.engines.options import VLLMOptions
from llm.learner.options import LossConfig, OptimizerOptions, UpdateOptions
from llm.models.lora import LoraOptions
from llm.resets.options import LocalizationOptions, OracleOptions
from llm.tasks import argument_kinds
from llm.thoughts.options import SamplingOptions


@dataclass(frozen=True)
class PlanOptions:
    """Overrides of the algorithm's plan; see `cpi.GroupPlan`.

    Parameters
    ----------
    fresh : int, optional
        Size of the fresh group (num_generations of GRPO).
    resets : int, optional
        Reset groups per prompt.
    per_reset : int, optional
        Size of each reset group.
    seeds : {"failed", "any"}, optional
        Episodes that may be reset.
    choice : {"random", "deepest"}, optional
        Which of these episodes are reset.
    candidates : int, optional
        The deepest are chosen among this many of them; 0 for all.
    retries : int, optional
        Above 0, resets are made only where all rollouts of the fresh group fail, again while the
        reset group fails too, at most this often.
    equal_cost : bool, optional
        With retries: take only as many of the step's prompts as cost what the fresh groups of all
        of them would, so that steps with resets are no dearer than others.
    """

    fresh: int | None = None
    resets: int | None = None
    per_reset: int | None = None
    seeds: Literal["failed", "any"] | None = None
    choice: Literal["random", "deepest"] | None = None
    candidates: int | None = None
    retries: int | None = None
    equal_cost: bool | None = None


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation on held-out problems.

    Parameters
    ----------
    steps : int
        Steps between evaluations, also before the first step and after the last; 0 for none.
    problems : int
        Number of test problems of the task.
    samples : int
        Completions per problem; pass@1 and pass@samples are estimated from them.
    """

    steps: int = 10
    problems: int = 128
    samples: int = 4

    def __post_init__(self) -> None:
        if self.steps < 0 or self.problems < 1 or self.samples < 1:
            raise ValueError(
                f"evaluation.steps={self.steps}, problems={self.problems}, samples={self.samples}: "
                "steps must be ≥ 0 (0 turns evaluation off), the others ≥ 1"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Parameters
    ----------
    model : str
        Folder or hub name of a causal language model.
    algorithm : str
        grpo, rrpo, srpo, oracle, adaptive (entries of `cpi.ALGORITHMS`: a plan of rollouts and a
        rule for resets); score, critique_grpo, spo_tree, vineppo (baselines); or module:Class of
        your own, an `llm.algorithms.Algorithm`.
    algorithm_args : dict
        Arguments of your own algorithm, as in --algorithm_args.depth 3.
    localizer : str
        How srpo and adaptive find the reset step: prompted, step_logprob, surprisal,
        surprisal_mean, surprisal_drop, first, random, halving, checker, or module:function.
    task : str
        "chain"; "sums"; a data set such as gsm8k or numina_olympiads (see llm/tasks/data);
        reasoning_gym:NAME of that package; a YAML file that declares your own data set; or
        module:Class of an `llm.tasks.Task`.
    task_args : dict
        Arguments of the task, as in --task_args.length 6, or --task_args.path my.jsonl for a data
        set: every key of its declaration.
    engine : {"transformers", "vllm"}
        Engine that samples.
    steps : int
        Training steps.
    token_budget : int, optional
        The run also ends after the step in which this many tokens were generated, localizations
        included.
    prompts_per_step : int
        Problems per step; the plan sets the number of rollouts of each.
    seed : int
        Seed of all random numbers.
    output : str
        Folder of the run; by default runs/TASK-ALGORITHM-sSEED.
    resume : str
        "never"; "auto" for the newest checkpoint of the output folder; or a checkpoint's folder.
    save_steps : int
        Steps between checkpoints.
    save_total_limit : int
        Number of checkpoints kept.
    rollout_steps : int
        Steps between rollout records; 0 for none.
    report_to : {"none", "tensorboard", "wandb", "trackio"}
        Also send metrics, and the completions of steps with rollout records, to this tracker;
        tensorboard's files go to the run's folder.
    scale_rewards : {"group", "batch", "none"}
        Divide advantages by the standard deviation of the group, the batch, or not.
    dynamic_sampling : int
        Most rounds per step that replace prompts without a signal by other prompts (DAPO).
    gradient_checkpointing : bool
        Recompute activations in the backward pass: slower, with less memory.
    bf16 : bool, optional
        Compute in bfloat16; by default if the GPU supports it.
    disable_dropout : bool
        Train without the dropout of the model's configuration; that of adapters is `lora.dropout`.
    plan : PlanOptions
    sampling : SamplingOptions
    localization : LocalizationOptions
    oracle : OracleOptions
    score : ScoreOptions
    critique_grpo : CritiqueGRPOOptions
    spo_tree : SPOTreeOptions
    vineppo : VinePPOOptions
    loss : LossConfig
    update : UpdateOptions
    optimizer : OptimizerOptions
    lora : LoraOptions
    vllm : VLLMOptions
    evaluation : EvaluationOptions
    """

    model: str = ""
    algorithm: str = "srpo"
    algorithm_args: dict[str, Any] = field(default_factory=dict)
    localizer: str = "prompted"
    task: str = "chain"
    task_args: dict[str, Any] = field(default_factory=dict)
    engine: Literal["transformers", "vllm"] = "transformers"
    steps: int = 100
    token_budget: int | None = None
    prompts_per_step: int = 16
    seed: int = 0
    output: str = ""
    resume: str = "never"
    save_steps: int = 10
    save_total_limit: int = 2
    rollout_steps: int = 1
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    scale_rewards: Scale = "group"
    dynamic_sampling: int = 0
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    disable_dropout: bool = True
    plan: PlanOptions = field(default_factory=PlanOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    oracle: OracleOptions = field(default_factory=OracleOptions)
    score: ScoreOptions = field(default_factory=ScoreOptions)
    critique_grpo: CritiqueGRPOOptions = field(default_factory=CritiqueGRPOOptions)
    spo_tree: SPOTreeOptions = field(default_factory=SPOTreeOptions)
    vineppo: VinePPOOptions = field(default_factory=VinePPOOptions)
    loss: LossConfig = field(default_factory=LossConfig)
    update: UpdateOptions = field(default_factory=UpdateOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    vllm: VLLMOptions = field(default_factory=VLLMOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError(
                "model: none given; name the folder (or hub name) of a causal language model "
                "with --model"
            )
        for name in ("steps", "prompts_per_step", "save_steps", "save_total_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a whole number ≥ 1")
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"token_budget: {self.token_budget} is not a whole number ≥ 1")
        if self.seed < 0 or self.rollout_steps < 0:
            raise ValueError(f"seed={self.seed}, rollout_steps={self.rollout_steps}: must be ≥ 0")
        if self.dynamic_sampling < 0:
            raise ValueError(f"dynamic_sampling: {self.dynamic_sampling} is not a whole number ≥ 0")
        check_algorithm(self.algorithm)
        if self.algorithm_args and (self.algorithm in ALGORITHMS or self.section is not None):
            raise ValueError(
                f"algorithm_args: {self.algorithm} takes none; they are for a module:Class"
            )
        if self.dynamic_sampling and self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"dynamic_sampling: {self.dynamic_sampling}, but {self.algorithm} keeps its "
                f"prompts; set 0, or take one of {', '.join(ALGORITHMS)}"
            )
        if self.section is not None:
            self._check_section(self.section)
        if self.vllm.lora and not self.lora.r:
            raise ValueError("vllm.lora: lora.r is 0, so there are no adapters; give them a rank")
        plan = self.group_plan()
        for size, name in ((plan.fresh, "plan.fresh"), (plan.per_reset, "plan.per_reset")):
            if size == 1:
                raise ValueError(
                    f"{name}: a group of one has nothing to compare with, its advantage is always "
                    "0; give at least 2 (or 0 for no such group)"
                )
        rows, parts = self.prompts_per_step * plan.rollouts, self.update.steps_per_generation
        if parts > rows:
            raise ValueError(
                f"update.steps_per_generation: {parts} optimizer steps, but a training step has "
                f"{rows} rollouts ({self.prompts_per_step} prompts × {plan.rollouts})"
            )

    @property
    def section(self) -> AlgorithmOptions | None:
        """Options of the algorithm, if it has its own section."""
        return getattr(self, self.algorithm, None) if self.algorithm in CLASSES else None

    @property
    def turns(self) -> int:
        """Completions per conversation."""
        return 1 if self.section is None else self.section.turns

    def group_plan(self) -> GroupPlan:
        """The plan of the algorithm, with the overrides of `plan`.

        An algorithm with its own section has a plan without resets. A user's class has eight fresh
        rollouts per prompt, unless `plan` overrides them.
        """
        if self.section is not None:
            return GroupPlan(fresh=self.section.rollouts)
        known = self.algorithm in ALGORITHMS
        plan = ALGORITHMS[self.algorithm].plan if known else GroupPlan(fresh=8)
        overrides = {name: v for name, v in asdict(self.plan).items() if v is not None}
        return dataclasses.replace(plan, **overrides)

    def needs(self, source: Literal["localizer", "oracle"]) -> bool:
        """Whether the algorithm's reset rule needs a localizer, or an oracle."""
        return self.algorithm in ALGORITHMS and source in ALGORITHMS[self.algorithm].needs

    @property
    def needs_reference(self) -> bool:
        """Whether any row has a KL term."""
        return bool(self.loss.beta or (self.section is not None and self.section.needs_reference))

    def _check_section(self, options: AlgorithmOptions) -> None:
        """Refuse settings without a meaning for an algorithm with its own section."""
        name = self.algorithm
        given = [option for option, value in asdict(self.plan).items() if value is not None]
        if given:
            option = dataclasses.fields(options)[0].name
            raise ValueError(
                f"plan.{given[0]}: {name} has no plan of fresh and reset rollouts; how many it "
                f"draws are options of its own, --{name}.{option} …"
            )
        options.check(self.sampling)

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        task = Path(self.task.rpartition(":")[2]).stem
        algorithm = self.algorithm.rpartition(":")[2]
        return Path(self.output or f"runs/{task}-{algorithm}-s{self.seed}").expanduser()

    def to_yaml(self) -> str:
        """All settings as YAML, which `--config` reads back."""
        import yaml

        class Dumper(yaml.SafeDumper):
            """Quotes strings such as 1e3: for jsonargparse, unlike PyYAML, they are numbers."""

        number = re.compile(r"[-+]?[0-9._]+[eE][-+]?[0-9]+$")
        Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
        return yaml.dump(asdict(self), Dumper=Dumper, sort_keys=False, allow_unicode=True)

    def plain(self) -> dict[str, Any]:
        """All settings as JSON data, equal to those read from a file."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return settings


def parse_config(
    argv: Sequence[str] | None, prog: str, description: str = "", epilog: str = ""
) -> TrainConfig:
    """Parse a command line; see `llm.config.command_line.parse`.

    The parser does not know the types of a task's or an algorithm's own arguments, which are
    therefore read here.
    """
    words, flags = _split(underscored(argv, groups=True))
    config = parse(TrainConfig, words, prog, description, epilog, list(presets()))
    task_args, algorithm_args = config.task_args, config.algorithm_args
    kinds = argument_kinds(config.task) if flags["task_args"] else {}
    for name, text in flags["task_args"]:
        task_args = with_argument(task_args, kinds, name, text)
    kinds = _kinds(config.algorithm) if flags["algorithm_args"] else {}
    for name, text in flags["algorithm_args"]:
        algorithm_args = with_argument(algorithm_args, kinds, name, text)
    return dataclasses.replace(config, task_args=task_args, algorithm_args=algorithm_args)


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, list[tuple[str, str]]]]:
    """The words without `--task_args.name value` and `--algorithm_args.name value`, and these."""
    others: list[str] = []
    flags: dict[str, list[tuple[str, str]]] = {"task_args": [], "algorithm_args": []}
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        option, _, name = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or option not in flags or not name:
            others.append(word)
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ValueError(f"{flag}: no value given; write {flag}=VALUE")
        flags[option].append((name, value))
    return others, flags


def _kinds(algorithm: str) -> dict[str, Any]:
    """Types of the arguments of a user's algorithm."""
    try:
        return kinds_of(import_object(algorithm, "algorithm"))
    except ValueError:  # reported when the algorithm is made
        return {}
