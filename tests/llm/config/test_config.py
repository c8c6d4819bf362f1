"""Settings from files and flags: precedence, round trips, refused values."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import cpi
from llm.common.yaml_text import read_yaml
from llm.config import command_line
from llm.config.algorithms import CLASSES
from llm.config.command_line import parse
from llm.config.presets import presets
from llm.config.resume import MAY_CHANGE, differences, recorded
from llm.config.train import PlanOptions, TrainConfig, parse_config
from llm.engines import make_engine
from llm.engines.options import VLLMOptions
from llm.engines.vllm import VLLMEngine
from llm.evaluate.options import TaskSpec
from llm.models.lora import LoraOptions
from llm.pretrain import PretrainConfig
from llm.thoughts.options import SamplingOptions


def parsed(*argv: str) -> TrainConfig:
    return parse_config(["--model=m", *argv], "prog")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    texts = {
        "one.yaml": "steps: 5\nseed: 1\nsampling: {temperature: 0.5, top_p: 0.9}\n",
        "two.yaml": "steps: 7\nsampling: {temperature: 0.6}\n",
        "sampling.yaml": "temperature: 0.8\nmax_thoughts: 3\n",
        "folder/three.yaml": "config: ../one.yaml\nsteps: 9\nsampling: ../sampling.yaml\n",
        "comments.yaml": "# steps: 3\n",
        "empty_section.yaml": "optimizer:\n  # learning_rate: 1\nsteps: 7\n",
        "sequence.yaml": "- steps: 3\n",
        "no_section.yaml": "sampling: [1]\n",
        "switch.yaml": "evaluation: true\n",
        "list.yaml": "config: [one.yaml, two.yaml]\nprompts_per_step: 9\n",
        "folder/child.yaml": "config: ../list.yaml\nsampling: {temperature: 0.7}\n",
        "orphan.yaml": "config: [one.yaml, gone.yaml]\n",
        "itself.yaml": "config: [circle.yaml]\n",
        "circle.yaml": "config: itself.yaml\n",
        "unknown.yaml": "stepz: 9\n",
        "broken.yaml": "steps: [\n",
        "text.yaml": "steps\n",
        "twice.yaml": "steps: 5\nseed: 1\nsteps: 6\n",
        "inside.yaml": "steps: 5\nsampling: {top_p: 1, top_p: 0.5}\n",
        "section.yaml": "top_p: 1\ntop_p: 0.5\n",
        "deep.yaml": "[" * 500,
    }
    (tmp_path / "folder").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- files and flags


@pytest.mark.parametrize(
    ("argv", "steps", "temperature"),
    [
        (["--config=one.yaml", "--config", "two.yaml"], 7, 0.6),
        (["--config", "two.yaml", "--config=one.yaml"], 5, 0.5),
    ],
)
@pytest.mark.usefixtures("files")
def test_parse_config__later_files_win(argv: list[str], steps: int, temperature: float) -> None:
    config = parsed(*argv)
    assert (config.steps, config.seed) == (steps, 1)
    assert config.sampling == SamplingOptions(temperature=temperature, top_p=0.9)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("flags", [["--steps=1"], ["--steps", "1"]])
def test_parse_config__flags_win_wherever_they_stand(at: int, flags: list[str]) -> None:
    argv = ["--config=one.yaml", "--config=two.yaml"]
    config = parsed(*argv[:at], *flags, "--sampling.top_p=0.7", *argv[at:])
    assert config.steps == 1
    assert config.sampling == SamplingOptions(temperature=0.6, top_p=0.7)


@pytest.mark.usefixtures("files")
def test_parse_config__empty_files_and_sections_change_nothing() -> None:
    assert parsed("--config=comments.yaml") == parsed()
    assert parsed("--config=empty_section.yaml") == parsed("--steps=7")


@pytest.mark.usefixtures("files")
def test_parse_config__parents_and_section_files() -> None:
    config = parsed("--config=folder/three.yaml")
    assert (config.steps, config.seed) == (9, 1)
    assert (config.sampling.temperature, config.sampling.max_thoughts) == (0.8, 3)
    config = parsed("--sampling=sampling.yaml", "--sampling.max_thoughts=4")
    assert config.sampling == SamplingOptions(temperature=0.8, max_thoughts=4)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("file", "temperature"), [("list.yaml", 0.6), ("folder/child.yaml", 0.7)])
def test_parse_config__file_wins_over_its_parents(file: str, temperature: float) -> None:
    config = parsed("--config", file)
    assert (config.steps, config.seed, config.prompts_per_step) == (7, 1, 9)
    assert config.sampling == SamplingOptions(temperature=temperature, top_p=0.9)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config=orphan.yaml"], "orphan.yaml has the parent 'gone.yaml', which is not a file"),
        (["--config=itself.yaml"], "itself.yaml is a parent of its own"),
        (["--config=broken.yaml"], "broken.yaml is not YAML: "),
        (["--config=text.yaml"], "steps"),
        (["--config=unknown.yaml"], "stepz"),
        (["--config=sequence.yaml"], "sequence.yaml holds [{'steps': 3}], not settings"),
        (["--config=no_section.yaml"], "sampling is a section of options, `name: value`, not [1]"),
        (["--config=switch.yaml"], "evaluation is a section of options, `name: value`, not True"),
        (["--config=nowhere.yaml"], "'nowhere.yaml' is neither a file nor a preset; presets: ch"),
        (["--config=folder"], "'folder' is neither a file nor a preset"),
        (["--config"], "'' is neither a file nor a preset"),
        (["--steps=half"], "steps"),
        (["--loss.loss_type=ppo"], "loss.loss_type"),
        (["--stepz=9"], "stepz"),
        (["--optimizer.lr", "3"], "--optimizer.lr"),  # no abbreviation of lr_scheduler_type
        (["--see=3"], "--see"),
        (["--config=twice.yaml"], "twice.yaml is not YAML: 'steps' is given twice in"),
        (["--config=inside.yaml"], "inside.yaml is not YAML: 'top_p' is given twice in"),
        (["--sampling=section.yaml"], "'top_p' is given twice in"),
        (["--config=deep.yaml"], "deep.yaml is not YAML: it is nested too deeply"),
        (["--task_args.length"], "--task_args.length: no value given; write --task_args.length=VA"),
        (["--task_args.length", "--steps=3"], "--task_args.length: no value given; write"),
    ],
)
def test_parse_config__bad_files_and_flags_give_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        parsed(*argv)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_read_yaml__merged_keys_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n")
    content = read_yaml(path)
    assert (content["b"], content["c"]) == ({"x": 3, "y": 2}, {"x": 3, "y": 4})


def test_commands__no_parser_takes_abbreviations() -> None:
    root, parsers = Path(command_line.__file__).parents[2], 0
    for room in ("cpi", "envs", "llm", "paper_figures", "tests"):
        for path in (root / room).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            if "ArgumentParser(" not in source or path == Path(__file__):
                continue
            for call in ast.walk(ast.parse(source)):
                if isinstance(call, ast.Call) and "ArgumentParser" in ast.unparse(call.func):
                    parsers += 1
                    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
                    assert given.get("allow_abbrev") == "False", f"{path}:{call.lineno}"
    assert parsers > 10


# --- arguments of tasks and algorithms

#: Texts that YAML would change, or not read at all.
TEXTS = [
    *["\n", "\n\n", " ", "", " a ", "#", "a # b", "1", "007", "1_000", "1e3", "1:30", "null", "~"],
    *["yes", "true", "2026-01-01", "{q}", "{q}: {a}", "[a-z]", "[", "- a", "a: b", "'x'", '"\\n"'],
    *["&a", "*a", "!!x", "%", "@", "`", "-", "a=b", "a: 1\na: 2", "2026-13-45", "[" * 500],
]


class Own:
    """A task of a user, with annotated and with other arguments."""

    def __init__(
        self, mark: str, size: float, pair: list[int] | None, any_: Any, folder: Path, sign="+"
    ) -> None: ...


def arguments(task: str, *words: str) -> dict[str, Any]:
    """Arguments of a task on the command line of `llm.evaluate`."""
    spec = TaskSpec(task, {}, task)
    for word in words:
        spec = spec.with_argument(word)
    return spec.args


@pytest.mark.parametrize("text", TEXTS)
def test_arguments__an_option_that_is_text_takes_any_text(text: str) -> None:
    own = f"{__name__}:Own"
    for task, name in (
        *(("gsm8k", name) for name in ("delimiter", "system", "answer", "verifier")),
        *(("gsm8k", name) for name in ("prompt", "path.train") if text not in ("[a-z]", "- a")),
        *(("gsm8k", name) for name in ("where.q.matches", "answer_where.not_matches")),
        *((own, name) for name in ("mark", "sign")),
    ):
        args = arguments(task, f"{name}={text}")
        root, _, rest = name.partition(".")
        assert (args[root][rest] if rest else args[root]) == text, name


OWN = f"{__name__}:Own"

#: Arguments by task, as words and as values.
WORDS: list[tuple[str, str, dict[str, Any]]] = [
    ("gsm8k", "test=50", {"test": 50}),
    ("gsm8k", "train=null", {"train": None}),
    ("gsm8k", "chat=false", {"chat": False}),
    ("gsm8k", "delimiter=\n", {"delimiter": "\n"}),
    ("gsm8k", "prompt=[q, '{a}']", {"prompt": ["q", "{a}"]}),
    ("gsm8k", "path={train: a, test: b}", {"path": {"train": "a", "test": "b"}}),
    ("gsm8k", "where.a.b=[1, x]", {"where": {"a.b": [1, "x"]}}),
    ("gsm8k", "where.a.b.integer=true", {"where": {"a.b.integer": True}}),
    ("gsm8k", "where.a=007", {"where": {"a": "007"}}),
    ("gsm8k", "verifier_args.absolute=1e-3", {"verifier_args": {"absolute": 0.001}}),
    ("chain", "length=4", {"length": 4}),
    ("chain", 'operations=["+1","*2"]', {"operations": ["+1", "*2"]}),
    (OWN, "mark=", {"mark": ""}),
    (OWN, "size=1e3", {"size": 1000.0}),
    (OWN, "pair=[1, 2]", {"pair": [1, 2]}),
    (OWN, "any_=3", {"any_": 3}),
    (OWN, "other.a.b=[1]", {"other": {"a": {"b": [1]}}}),
    (OWN, "folder=a/b", {"folder": "a/b"}),
]


@pytest.mark.parametrize(
    ("task", "word", "expected"),
    [
        *WORDS,
        (OWN, "size=3", {"size": 3}),
        (OWN, "pair=null", {"pair": None}),
        (OWN, "any_= ", {"any_": " "}),
        (OWN, "any_=007", {"any_": "007"}),
        (OWN, "any_=null", {"any_": None}),
        ("no_module:Of", "x=2.5", {"x": 2.5}),
    ],
)
def test_arguments__others_are_yaml(task: str, word: str, expected: dict[str, Any]) -> None:
    assert arguments(task, word) == expected


@pytest.mark.parametrize("task", ["gsm8k", "chain", OWN])
def test_parse_config__arguments_are_those_of_evaluate(task: str) -> None:
    words = [word for name, word, _ in WORDS if name == task]
    expected = arguments(task, *words)
    equal = [f"--task_args.{word}" for word in words]
    apart = [part for flag in equal for part in flag.split("=", 1)]
    for flags in (["--task_args={}", *equal], [*apart, "--task_args", "{}"]):
        assert parsed(f"--task={task}", *flags).task_args == expected
    if ":" in task:
        flags = [flag.replace("task_args", "algorithm_args") for flag in apart]
        assert parsed(f"--algorithm={task}", *flags).algorithm_args == expected


def holds(settings: dict[str, Any], part: dict[str, Any]) -> bool:
    return all(
        holds(settings[name], value) if isinstance(value, dict) else settings[name] == value
        for name, value in part.items()
    )


@pytest.mark.parametrize("name", presets())
def test_presets__load(name: str) -> None:
    files = presets()[name]
    config = parsed(f"--config={name}")
    assert config == parsed(f"--config={name}.yaml")
    assert config == parsed(*(f"--config={path}" for path in files))
    assert holds(dataclasses.asdict(config), yaml.safe_load(files[-1].read_text()) | {"model": "m"})
    for path in files[:-1]:
        assert set(yaml.safe_load(path.read_text())) <= {f.name for f in dataclasses.fields(config)}


def test_presets__paper_has_every_combination_of_parts() -> None:
    parts = Path(command_line.__file__).parents[1] / "presets" / "parts"
    sizes = [len(list((parts / kind).iterdir())) for kind in ("models", "problems", "methods")]
    named = [name for name, files in presets().items() if len(files) > 3]
    assert len(named) == sizes[0] * sizes[1] * sizes[2] == 40


# --- round trips


@pytest.mark.parametrize(
    "text",
    [
        *["+1", "007", "0x1f", "null", "yes", "1:30", "2026-01-01", "a: b", "- a", "é#", ""],
        *["1e3", "-1.5e3", "12e4"],
    ],
)
def test_to_yaml__strings_round_trip(text: str, tmp_path: Path) -> None:
    config = TrainConfig(
        model="m",
        output=text,
        localizer=text,
        task_args={"operations": ["*2", text], text: 1},
        lora=LoraOptions(target_modules=["q_proj", text]),
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert parse_config([f"--config={tmp_path}/config.yaml"], "prog") == config
    if text:
        assert parsed(f"--output={text}").output == text


def test_to_yaml__all_settings_round_trip(tmp_path: Path) -> None:
    config = parsed(
        "--algorithm=oracle", "--token_budget=10", "--bf16=false", "--scale_rewards=none",
        '--task_args={"operations": ["+1", "-4"], "deep": {"a": [1, 2.5, null, true]}}',
        "--task_args.length=3", "--plan.seeds=any", "--plan.fresh=0", "--sampling.top_p=0.5",
        "--localization.temperature=0", "--oracle.mask=largest", "--oracle.tau=0.1",
        "--loss.loss_type=cispo", "--loss.epsilon_high=5", "--update.max_grad_norm=0",
        "--optimizer.learning_rate=1e-6", "--lora.r=4", "--lora.alpha=8",
        "--vllm.max_model_len=99", "--evaluation.steps=0",
    )  # fmt: skip
    assert config.task_args == {
        "operations": ["+1", "-4"], "deep": {"a": [1, 2.5, None, True]}, "length": 3,
    }  # fmt: skip
    assert config.optimizer.learning_rate == 1e-6
    assert config.bf16 is False
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert parse_config([f"--config={tmp_path}/config.yaml"], "prog") == config
    assert differences(yaml.safe_load(config.to_yaml()), dataclasses.asdict(config)) == []


# --- settings of a resumed run


def test_differences__forbidden_changes_are_named() -> None:
    old = parsed("--task_args.length=3", "--lora.r=4")
    new = parsed("--task_args.length=4", "--task_args.seed=1", "--lora.r=8", "--seed=1")
    assert differences(dataclasses.asdict(old), dataclasses.asdict(new)) == [
        "lora.r: 4 is now 8",
        "seed: 0 is now 1",
        "task_args.length: 3 is now 4",
        "task_args.seed: None is now 1",
    ]


def test_differences__allowed_changes_are_ignored() -> None:
    assert set(MAY_CHANGE) <= {field.name for field in dataclasses.fields(TrainConfig)}
    new = parsed(
        "--steps=7", "--token_budget=9", "--resume=auto", "--save_steps=3", "--save_total_limit=5",
        "--rollout_steps=0", "--report_to=tensorboard", "--output=x", "--evaluation.samples=9",
    )  # fmt: skip
    assert differences(dataclasses.asdict(parsed()), dataclasses.asdict(new)) == []
    # Allowed only at the top level: a task may have its own setting "steps".
    one, two = ({"task_args": {"steps": n}} for n in (1, 2))
    assert differences(one, two) == ["task_args.steps: 1 is now 2"]


def test_recorded__missing_settings_get_their_defaults() -> None:
    new = parsed("--update.num_iterations=2", "--task_args.length=3").plain()
    older = dataclasses.replace(parsed(), seed=4).plain() | {
        "update": {"num_iterations": 2},
        "task_args": {"length": 3},
    }
    del older["vllm"], older["seed"]
    assert differences(older, new) != []
    assert recorded(older) == new
    assert differences(recorded(older | {"gone": 1}), new) == ["gone: 1 is now None"]


def test_recorded__adaptive_runs_without_equal_cost_had_none() -> None:
    new = parsed("--algorithm=adaptive").plain()
    older = new | {"plan": {k: v for k, v in new["plan"].items() if k != "equal_cost"}}
    assert differences(recorded(older), new) == ["plan.equal_cost: False is now None"]
    assert recorded(new) == new
    grpo = older | {"algorithm": "grpo"}
    assert recorded(grpo)["plan"]["equal_cost"] is None


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "cosine", "linear"])
def test_differences__steps_are_fixed_if_the_schedule_depends_on_them(schedule: str) -> None:
    old, new = (
        dataclasses.asdict(parsed(f"--optimizer.lr_scheduler_type={schedule}", f"--steps={steps}"))
        for steps in (2, 4)
    )
    expected = [] if schedule.startswith("constant") else ["steps: 2 is now 4"]
    assert differences(old, new) == expected


# --- valid values


@pytest.mark.parametrize("algorithm", cpi.ALGORITHMS)
def test_group_plan__plan_of_the_algorithm_with_overrides(algorithm: str) -> None:
    plan = cpi.ALGORITHMS[algorithm].plan
    assert parsed(f"--algorithm={algorithm}").group_plan() == plan
    changed = parsed(f"--algorithm={algorithm}", "--plan.fresh=6", "--plan.seeds=failed")
    assert changed.group_plan() == dataclasses.replace(plan, fresh=6)


def test_group_plan__any_algorithm_with_resets_may_be_adaptive() -> None:
    flags = "--plan.fresh=8", "--plan.choice=deepest", "--plan.candidates=3", "--plan.retries=4"
    plan = parsed("--algorithm=oracle", *flags).group_plan()
    assert plan == cpi.GroupPlan(8, 1, 4, choice="deepest", candidates=3, retries=4)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--algorithm=grpo", "--plan.fresh=1"], "plan.fresh"),
        (["--plan.fresh=1"], "plan.fresh"),
        (["--plan.per_reset=1"], "plan.per_reset"),
        (["--plan.fresh=0", "--plan.per_reset=1"], "plan.per_reset"),
    ],
)
def test_train_config__group_of_one_is_refused(flags: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: a group of one has nothing to compare with"):
        parsed(*flags)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--steps=0", "steps: 0 is not a whole number ≥ 1"),
        ("--prompts_per_step=0", "prompts_per_step: 0 is not a whole number ≥ 1"),
        ("--save_steps=0", "save_steps: 0 is not a whole number ≥ 1"),
        ("--save_total_limit=0", "save_total_limit: 0 is not a whole number ≥ 1"),
        ("--seed=-1", "seed=-1, "),
        ("--rollout_steps=-1", "rollout_steps=-1: must be ≥ 0"),
        ("--sampling.temperature=0", "sampling.temperature: 0.0 is not > 0"),
        ("--sampling.temperature=.nan", "sampling.temperature: nan is not > 0"),
        ("--sampling.top_p=0", "sampling.top_p: 0.0 is not in (0, 1]"),
        ("--sampling.top_p=1.1", "sampling.top_p: 1.1 is not in (0, 1]"),
        ("--sampling.max_thoughts=0", "max_thoughts: 0 is not a whole number ≥ 1"),
        ("--localization.temperature=-0.1", "localization.temperature: -0.1 is not ≥ 0"),
        ("--localization.max_tokens=0", "localization.max_tokens: 0 is not ≥ 1"),
        ("--evaluation.steps=-1", "evaluation.steps=-1, "),
        ("--evaluation.problems=0", "problems=0, "),
        ("--evaluation.samples=0", "samples=0: steps must be ≥ 0"),
        ("--optimizer.learning_rate=-1", "optimizer.learning_rate: -1.0 is not a number ≥ 0"),
        ("--optimizer.learning_rate=.inf", "optimizer.learning_rate: inf is not a number ≥ 0"),
        ("--optimizer.weight_decay=.nan", "optimizer.weight_decay: nan is not a number ≥ 0"),
        ("--optimizer.adam_beta1=1", "1.0, 0.999 are not in [0, 1)"),
        ("--optimizer.adam_beta2=1", "0.9, 1.0 are not in [0, 1)"),
        ("--optimizer.warmup_steps=-1", "optimizer.warmup_steps: -1 is not ≥ 0"),
        ("--lora.r=-1", "lora.r: -1 is not a rank ≥ 1"),
        ("--model=", "model: none given; "),
    ],
)
def test_train_config__values_out_of_range_are_refused(flag: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parsed(flag)


def test_train_config__limits_are_in_range() -> None:
    parsed(
        "--sampling.top_p=1", "--localization.temperature=0", "--evaluation.steps=0",
        "--optimizer.adam_beta1=0", "--optimizer.learning_rate=0", "--rollout_steps=0",
        "--plan.fresh=2", "--plan.per_reset=2", "--steps=1",
    )  # fmt: skip


def test_folder__is_named_after_the_run() -> None:
    assert parsed("--seed=3").folder == Path("runs/chain-srpo-s3")
    assert parsed("--task=my.tasks:Sums", "--algorithm=grpo").folder == Path("runs/Sums-grpo-s0")
    assert parsed("--output=elsewhere").folder == Path("elsewhere")


def test_vllm_options__are_arguments_of_the_engine() -> None:
    arguments = {
        *inspect.signature(VLLMEngine).parameters,
        *inspect.signature(make_engine).parameters,
    }
    for field in dataclasses.fields(VLLMOptions):
        assert field.name in arguments


# --- help


def options(settings: Any, prefix: str = "") -> Iterator[str]:
    """Option names of a dataclass, including those of its sections."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from options(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


@pytest.mark.parametrize("settings", [TrainConfig, PretrainConfig])
def test_help__every_option_has_a_text(
    settings: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as raised:
        parse(settings, ["--help_all"], "prog", "What it does.", "How it is used:\n  like this")
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    assert "What it does." in shown and "How it is used:\n  like this" in shown
    # Each option shows its name, a placeholder, words, and its type.
    texts = {part.split()[0]: part.split()[2:] for part in re.split(r"\n  --", shown)[1:]}
    for name in options(settings):
        assert "(type:" in texts[name], name
        assert texts[name].index("(type:") >= 2, f"{name}: no words"


def test_plan_options__are_the_fields_of_a_plan() -> None:
    plan = {field.name for field in dataclasses.fields(cpi.GroupPlan)}
    assert {field.name for field in dataclasses.fields(PlanOptions)} == plan


@pytest.mark.parametrize("algorithm", [*cpi.ALGORITHMS, *CLASSES])
def test_presets__chain_fits_every_algorithm(algorithm: str) -> None:
    config = parse_config(["--config=chain", f"--algorithm={algorithm}"], "prog")
    assert config.algorithm == algorithm


def test_help__lists_the_presets_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for settings, named in ((TrainConfig, list(presets())), (PretrainConfig, [])):
        with pytest.raises(SystemExit):
            parse(settings, ["--help_all"], "prog", named_presets=named)  # type: ignore[type-var]
        assert ("name of a preset" in capsys.readouterr().out) == bool(named)


def test_config__a_removed_section_that_was_off_is_read_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = parsed("--seed=3").to_yaml()
    path.write_text(text + "rehearsal:\n  file: ''\n  weight: 1.0\n  batch: 32\n")
    assert parsed(f"--config={path}") == parsed("--seed=3")
    path.write_text(text + "rehearsal:\n  file: chain-base\n")
    with pytest.raises(
        ValueError, match=r"--config: .* uses rehearsal, which this version has not"
    ):
        parsed(f"--config={path}")


def test_config__an_algorithm_is_a_name_of_a_table_or_an_import_path() -> None:
    with pytest.raises(ValueError, match=r"algorithm: 'no_such' is none of grpo, .* module:Class"):
        parsed("--algorithm=no_such")
    own = parsed("--algorithm=my_module:Mine", "--algorithm_args.size=3", "--plan.fresh=6")
    assert own.algorithm_args == {"size": 3}
    assert own.group_plan() == cpi.GroupPlan(fresh=6) and own.turns == 1
    assert own.folder.name == "chain-Mine-s0"
    with pytest.raises(ValueError, match="algorithm_args: srpo takes none"):
        parsed("--algorithm_args.size=3")
    with pytest.raises(ValueError, match="dynamic_sampling: 2, but my_module:Mine keeps its prom"):
        parsed("--algorithm=my_module:Mine", "--dynamic_sampling=2")
