"""The settings of a training run: one dataclass, read from YAML files and flags."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpi.advantages import Scale
from cpi.plans import ALGORITHMS, GroupPlan
from llm.baselines.options import CritiqueGRPOOptions, ScoreOptions, SPOTreeOptions
from llm.command_line import parse, preset_names
from llm.localizers import TEMPERATURE
from llm.losses import LossConfig
from llm.models import LoraOptions
from llm.rehearsal import RehearsalOptions
from llm.thoughts import ThoughtLimits
from llm.update import UpdateOptions

#: What may differ between a run and its continuation.
MAY_CHANGE = (
    "steps",  # unless the schedule of the learning rate depends on it
    "token_budget",
    "resume",
    "save_steps",
    "save_total_limit",
    "rollout_steps",
    "report_to",
    "output",
    "evaluation",
    "vllm",  # where it runs, not what it samples
)


@dataclass(frozen=True)
class PlanOptions:
    """Overrides of the algorithm's plan; see `cpi.GroupPlan`.

    Parameters
    ----------
    fresh : int, optional
        Size of the fresh group (num_generations of GRPO).
    resets : int, optional
        Reset groups a prompt.
    per_reset : int, optional
        Size of each.
    seeds : {"failed", "any"}, optional
        Which episodes may be reset.
    choice : {"random", "deepest"}, optional
        Which of them are.
    """

    fresh: int | None = None
    resets: int | None = None
    per_reset: int | None = None
    seeds: Literal["failed", "any"] | None = None
    choice: Literal["random", "deepest"] | None = None


@dataclass(frozen=True)
class SamplingOptions:
    """How completions are sampled.

    Parameters
    ----------
    temperature : float
        Of training and evaluation rollouts.
    top_p : float
        Below 1 the tokens come from a truncated distribution, which the loss does not know of.
    max_completion_length : int
        Most tokens of a completion.
    max_thoughts : int
        Most thoughts of a completion.
    max_thought_tokens : int
        Most tokens of a thought.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_completion_length: int = 256
    max_thoughts: int = 20
    max_thought_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"sampling.temperature: {self.temperature} is not > 0; greedy rollouts of a group "
                "are all the same and teach nothing"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p: {self.top_p} is not in (0, 1]")
        self.limits()

    def limits(self) -> ThoughtLimits:
        """The limits of an episode."""
        return ThoughtLimits(self.max_completion_length, self.max_thoughts, self.max_thought_tokens)


@dataclass(frozen=True)
class LocalizationOptions:
    """How the prompted localizer samples its replies.

    Parameters
    ----------
    temperature : float
        Low, so that the reply is the model's best guess; 0 is greedy.
    max_tokens : int
        Most tokens of a reply.
    """

    temperature: float = TEMPERATURE
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"localization.temperature: {self.temperature} is not ≥ 0")
        if self.max_tokens < 1:
            raise ValueError(f"localization.max_tokens: {self.max_tokens} is not ≥ 1")


@dataclass(frozen=True)
class OracleOptions:
    """Which steps the algorithm oracle resets to; see `cpi.OracleReset`.

    Parameters
    ----------
    mask : {"first_error", "improvable", "largest"}
        The first wrong step by the task's checker; or, where the model's values can be computed
        exactly (chain reasoning), any state with an advantage above tau, or the one with the
        largest.
    tau : float
        Threshold of "improvable".
    """

    mask: Literal["first_error", "improvable", "largest"] = "first_error"
    tau: float = 0.0


@dataclass(frozen=True)
class VLLMOptions:
    """The vLLM engine.

    Parameters
    ----------
    tensor_parallel_size : int
        Devices that share a model.
    separate_process : bool
        Run the engine in a process of its own; implied by more than one device, and where several
        processes train together (each has an engine of its own).
    first_device : int, optional
        Engines have GPUs of their own, from this one on: tensor_parallel_size for each process of
        the job. By default an engine shares the GPU of its process and sleeps during updates.
    lora : bool
        vLLM applies the adapters of lora.r itself, and a sync sends them alone; by default they are
        merged into the weights that it gets.
    gpu_memory_utilization : float
        Share of each GPU's memory for the engine.
    max_num_seqs : int
        Most sequences at once.
    max_model_len : int, optional
        Most tokens of prompt and completion; by default the model's.
    enforce_eager : bool, optional
        Do not compile: a GPU starts within seconds then, and samples more slowly. By default on
        CPUs alone.
    """

    tensor_parallel_size: int = 1
    separate_process: bool = False
    first_device: int | None = None
    lora: bool = False
    gpu_memory_utilization: float = 0.5
    max_num_seqs: int = 256
    max_model_len: int | None = None
    enforce_eager: bool | None = None

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "max_num_seqs", "max_model_len"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"vllm.{name}: {value} is not a whole number ≥ 1")
        if self.first_device is not None and self.first_device < 0:
            raise ValueError(f"vllm.first_device: {self.first_device} is not a number of a GPU")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"vllm.gpu_memory_utilization: {self.gpu_memory_utilization} is not in (0, 1]"
            )


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation on held-out problems.

    Parameters
    ----------
    steps : int
        Evaluate every so many steps, before the first and after the last; 0 never.
    problems : int
        How many of the task's test problems.
    samples : int
        Completions of each; pass@1 and pass@samples are estimated from them.
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
class OptimizerOptions:
    """AdamW and its schedule (TRL's names).

    Parameters
    ----------
    learning_rate : float
        Its highest, where the schedule changes it.
    weight_decay : float
        Decoupled from the gradient.
    adam_beta1 : float
        Decay of the mean of gradients.
    adam_beta2 : float
        Decay of the mean of their squares.
    adam_epsilon : float
        Added to the root of the latter.
    lr_scheduler_type : str
        A schedule of `transformers.get_scheduler`: constant, linear, cosine, constant_with_warmup …
    warmup_steps : int
        Optimizer steps in which the schedule's learning rate rises from 0.
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    lr_scheduler_type: str = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "adam_epsilon"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"optimizer.{name}: {getattr(self, name)} is not a number ≥ 0")
        if not (0 <= self.adam_beta1 < 1 and 0 <= self.adam_beta2 < 1):
            raise ValueError(
                f"optimizer.adam_beta1, adam_beta2: {self.adam_beta1}, {self.adam_beta2} are not "
                "in [0, 1)"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps: {self.warmup_steps} is not ≥ 0")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Parameters
    ----------
    model : str
        Folder or hub name of a causal language model.
    algorithm : {"grpo", "rrpo", "srpo", "oracle", "score", "critique_grpo", "spo_tree"}
        A line of `cpi.ALGORITHMS`, a plan of rollouts and a rule for resets; or one of
        `llm.baselines`.
    localizer : str
        Where srpo resets: prompted, surprisal, random, checker, or module:function.
    task : str
        "chain"; a data set's: gsm8k, numina_olympiads … (see llm/tasks/data); a YAML file that
        declares your own; or module:Class of an `llm.tasks.Task`.
    task_args : dict
        Arguments of the task, as in --task_args.length 6, or --task_args.path my.jsonl for a data
        set: every key of its declaration.
    engine : {"transformers", "vllm"}
        What samples.
    steps : int
        Training steps.
    token_budget : int, optional
        End before them, after the step in which this many tokens were generated, localizations
        included.
    prompts_per_step : int
        Problems a step; the plan says how many rollouts each gets.
    seed : int
        Of everything random.
    output : str
        Folder of the run; by default runs/TASK-ALGORITHM-sSEED.
    resume : str
        "never"; "auto", from the newest checkpoint of the output folder; or a checkpoint's folder.
    save_steps : int
        Steps between checkpoints.
    save_total_limit : int
        Checkpoints kept.
    rollout_steps : int
        Steps between records of rollouts; 0 keeps none.
    report_to : {"none", "tensorboard"}
        Also write TensorBoard events.
    scale_rewards : {"group", "batch", "none"}
        Divide advantages by the standard deviation of the group, the batch, or not.
    dynamic_sampling : int
        Most rounds of a step in which prompts without a signal are replaced by others (DAPO).
    gradient_checkpointing : bool
        Trade time for memory.
    bf16 : bool, optional
        Compute in bfloat16; by default where a GPU has it.
    plan : PlanOptions
    sampling : SamplingOptions
    localization : LocalizationOptions
    oracle : OracleOptions
    score : ScoreOptions
    critique_grpo : CritiqueGRPOOptions
    spo_tree : SPOTreeOptions
    loss : LossConfig
    update : UpdateOptions
    optimizer : OptimizerOptions
    rehearsal : RehearsalOptions
    lora : LoraOptions
    vllm : VLLMOptions
    evaluation : EvaluationOptions
    """

    model: str = ""
    algorithm: Literal["grpo", "rrpo", "srpo", "oracle", "score", "critique_grpo", "spo_tree"] = (
        "srpo"
    )
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
    report_to: Literal["none", "tensorboard"] = "none"
    scale_rewards: Scale = "group"
    dynamic_sampling: int = 0
    gradient_checkpointing: bool = False
    bf16: bool | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    oracle: OracleOptions = field(default_factory=OracleOptions)
    score: ScoreOptions = field(default_factory=ScoreOptions)
    critique_grpo: CritiqueGRPOOptions = field(default_factory=CritiqueGRPOOptions)
    spo_tree: SPOTreeOptions = field(default_factory=SPOTreeOptions)
    loss: LossConfig = field(default_factory=LossConfig)
    update: UpdateOptions = field(default_factory=UpdateOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    rehearsal: RehearsalOptions = field(default_factory=RehearsalOptions)
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
        if self.baseline is not None:
            self._check_baseline()
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
    def baseline(self) -> ScoreOptions | CritiqueGRPOOptions | SPOTreeOptions | None:
        """The options of the algorithm, if it is one of `llm.baselines`."""
        return None if self.algorithm in ALGORITHMS else getattr(self, self.algorithm)

    def group_plan(self) -> GroupPlan:
        """The algorithm's plan with the overrides of `plan`; that of a baseline has no resets."""
        if self.baseline is not None:
            return GroupPlan(fresh=self.baseline.rollouts)
        overrides = {name: v for name, v in asdict(self.plan).items() if v is not None}
        return dataclasses.replace(ALGORITHMS[self.algorithm].plan, **overrides)

    @property
    def needs_reference(self) -> bool:
        """Whether some rows of some step have a KL term."""
        stage1 = self.algorithm == "score" and self.score.stage1_steps and self.score.kl
        return bool(self.loss.beta or stage1)

    def _check_baseline(self) -> None:
        """Refuse settings that have no meaning for it."""
        name, options = self.algorithm, self.baseline
        given = [option for option, value in asdict(self.plan).items() if value is not None]
        if given:
            raise ValueError(
                f"plan.{given[0]}: {name} has no plan of fresh and reset rollouts; how many it "
                f"draws are options of its own, --{name}.{dataclasses.fields(options)[0].name} …"  # type: ignore[arg-type]
            )
        if self.dynamic_sampling:
            raise ValueError(
                f"dynamic_sampling: {self.dynamic_sampling}, but {name} keeps its prompts; set 0, "
                f"or take one of {', '.join(ALGORITHMS)}"
            )
        if isinstance(options, SPOTreeOptions):
            before = options.segment_tokens * (len(options.branches) - 1)
            if before >= self.sampling.max_completion_length:
                raise ValueError(
                    f"spo_tree.segment_tokens: {len(options.branches) - 1} levels of "
                    f"{options.segment_tokens} tokens leave nothing for the last of "
                    f"sampling.max_completion_length, {self.sampling.max_completion_length}; "
                    "give fewer, or fewer branches"
                )

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        task = Path(self.task.rpartition(":")[2]).stem
        return Path(self.output or f"runs/{task}-{self.algorithm}-s{self.seed}").expanduser()

    def to_yaml(self) -> str:
        """All settings; `--config` reads it back."""
        import yaml

        class Dumper(yaml.SafeDumper):
            """Quotes what jsonargparse, unlike PyYAML, would read as a number, such as 1e3."""

        number = re.compile(r"[-+]?[0-9._]+[eE][-+]?[0-9]+$")
        Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
        return yaml.dump(asdict(self), Dumper=Dumper, sort_keys=False, allow_unicode=True)

    def plain(self) -> dict[str, Any]:
        """All settings, as they come back from a file."""
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return settings


def parse_config(
    argv: Sequence[str] | None, prog: str, description: str = "", epilog: str = ""
) -> TrainConfig:
    """The settings of a command line; see `llm.command_line.parse`."""
    return parse(TrainConfig, argv, prog, description, epilog, preset_names())


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a file, in which one that did not exist when it was made is at its default."""

    def filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        sections = {
            name: filled(defaults[name], value)
            for name, value in given.items()
            if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        }
        return {**defaults, **given, **sections}

    return filled(TrainConfig(model="its").plain(), settings)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What a continuation may not change and does, as `name: old is now new`."""
    found = []
    scheduled = new.get("optimizer", {}).get("lr_scheduler_type", "constant")
    for name in old.keys() | new.keys():
        was, now = old.get(name), new.get(name)
        lasting = name == "steps" and not scheduled.startswith("constant")
        if not prefix and name in MAY_CHANGE and not lasting:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += differences(was, now, f"{prefix}{name}.")
        elif was != now:
            found.append(f"{prefix}{name}: {was!r} is now {now!r}")
    return sorted(found)
