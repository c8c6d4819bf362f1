"""Model card of an exported checkpoint: data, training and results."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpi.core.plans import ALGORITHMS
from llm.algorithms import about
from llm.models.shipped import SHIPPED
from llm.runs.folder import PACKAGES, environment
from llm.tasks.task import PromptText

if TYPE_CHECKING:
    from llm.config.train import TrainConfig
    from llm.runs.saved_model import SavedModel

#: Licence of the models in `SHIPPED`, the same as the project's.
LICENSE = "mit"

#: Errors of reading a damaged or foreign JSON file: the card leaves it out.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)

PAPER = (
    "*Credit Assignment with Resets in Language Model Reasoning* (Samanta et al., 2026, arXiv "
    "2605.25507)"
)


def model_card(
    saved: SavedModel,
    state: Mapping[str, Any],
    *,
    adapter: bool,
    dtype: str,
    loaded: str,
    prompt: PromptText,
    variables: Mapping[str, Any],
) -> str:
    """Write the README.md of an exported checkpoint.

    Parameters
    ----------
    saved : SavedModel
        A run's checkpoint.
    state : mapping
        State of the checkpoint.
    adapter : bool
        Whether only adapters are exported.
    dtype, loaded : str
        Dtype of the written weights, and dtype for loading the model.
    prompt : str or messages
        Prompt of the task for the usage example.
    variables : mapping
        Variables of the chat template.
    """
    config = saved.config
    assert config is not None
    parts = [
        _header(saved, config, adapter),
        f"# {base_name(saved)}, {config.algorithm} on {config.task}, step {saved.step}",
        f"{'LoRA adapters for' if adapter else 'Made from'} `{base_name(saved)}` by reinforcement "
        f"learning with verifiable rewards, with credit-resets. {about(config)}"
        f"{f'; see {PAPER}' if config.algorithm in ALGORITHMS else ''}.",
        "## Use",
        _usage(prompt, variables, adapter, loaded),
        "## Training",
        _training(saved, config, state, dtype),
        "## Results",
        _results(saved),
        "## Versions",
        _versions(saved),
        "<details><summary>All settings</summary>\n\n```yaml\n"
        f"{_settings(saved, config)}```\n\n</details>",
    ]
    return "\n\n".join(parts) + "\n"


def base_name(saved: SavedModel) -> str:
    """Name of the base model, without local folders."""
    assert saved.config is not None
    given = saved.config.model
    return given if given in SHIPPED or not Path(saved.model).is_dir() else Path(given).name


def license_of(saved: SavedModel) -> str | None:
    """Licence from the base model's card, None if unavailable; `LICENSE` for shipped models."""
    import yaml
    from transformers.utils import cached_file

    assert saved.config is not None
    if Path(saved.model) in SHIPPED.values():
        return LICENSE
    folder = Path(saved.model)
    try:
        path = folder / "README.md" if folder.is_dir() else cached_file(saved.model, "README.md")
        text = Path(str(path)).read_text(encoding="utf-8")
        header = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    name = header.get("license") if isinstance(header, dict) else None
    return name if isinstance(name, str) else None


def _header(saved: SavedModel, config: TrainConfig, adapter: bool) -> str:
    import yaml

    header: dict[str, Any] = {
        "base_model": base_name(saved),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["credit-resets", "reinforcement-learning", config.algorithm],
    }
    if (name := license_of(saved)) is not None:
        header["license"] = name
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---"


def _usage(prompt: PromptText, variables: Mapping[str, Any], adapter: bool, dtype: str) -> str:
    if isinstance(prompt, str):
        encode = [f"prompt = {prompt!r}", 'inputs = tokenizer(prompt, return_tensors="pt")']
    else:
        encode = [
            f"messages = {prompt!r}",
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True,',
            *(f"    {name}={value!r}," for name, value in variables.items()),
            ")",
        ]
    classes = ("peft", "AutoPeftModelForCausalLM") if adapter else (None, "AutoModelForCausalLM")
    imports = [f"from {classes[0]} import {classes[1]}"] if adapter else []
    imports.append(
        "from transformers import "
        + ", ".join([*([] if adapter else [classes[1]]), "AutoTokenizer"])
    )
    lines = [
        *imports, "",
        'folder = "."  # the folder of this file',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f'model = {classes[1]}.from_pretrained(folder, dtype="{dtype}")',
        *encode,
        "ids = model.generate(**inputs)[0]",
        'print(tokenizer.decode(ids[inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]  # fmt: skip
    code = "```python\n" + "\n".join(lines) + "\n```"
    if adapter:
        return code + "\n\nThe settings below include the run's sampling and stop tokens."
    return code + (
        "\n\nThe generation config has the sampling and the stop tokens of training. "
        "vLLM can load the folder as well."
    )


def _training(saved: SavedModel, config: TrainConfig, state: Mapping[str, Any], dtype: str) -> str:
    plan, ledger = config.group_plan(), state["ledger"]
    rollouts = f"{plan.fresh} fresh completions a prompt"
    if plan.retries:
        rollouts += (
            f", and where all fail {plan.per_reset} continuations from a reset, again while these "
            f"fail too, at most {plan.retries} times"
        )
    elif plan.resets:
        rollouts += f" and {plan.resets} × {plan.per_reset} continuations from resets"
    if config.section is not None:
        rollouts = ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(config.section).items())
    task_args = ", ".join(f"{name}={value}" for name, value in config.task_args.items())
    rows = {
        "algorithm": config.algorithm
        + (f", localizer {config.localizer}" if config.needs("localizer") else ""),
        "rollouts": rollouts,
        "task": config.task + (f" ({task_args})" if task_args else ""),
        "steps": f"{saved.step} of {config.steps}, {config.prompts_per_step} prompts each",
        "weights": (f"LoRA, rank {config.lora.r}" if config.lora.r else "all") + f"; here {dtype}",
        "optimizer": f"AdamW, learning rate {config.optimizer.learning_rate:g}, "
        f"loss {config.loss.loss_type}",
        "sampling": f"temperature {config.sampling.temperature:g}, top-p "
        f"{config.sampling.top_p:g}, at most {config.sampling.max_completion_length} tokens",
        "completions rolled out": f"{ledger['episodes']:,}",
        "tokens generated": f"{ledger['steps']:,}, and {ledger['localizer_cost']:,} to localize",
        "tokens trained on": f"{ledger['trained_steps']:,}",
        "seed": str(config.seed),
    }
    return _table(("", ""), rows.items())


def _results(saved: SavedModel) -> str:
    parts = []
    if rows := list(_metrics(saved)):
        first, last = rows[0], rows[-1]
        parts.append(
            "In the run, on held-out problems:\n\n"
            + _table(
                ("", f"step {first['step']}", f"step {last['step']}"),
                (
                    (name.removeprefix("eval/"), f"{first[name]:.3f}", f"{last[name]:.3f}")
                    for name in last
                    if name.startswith("eval/") and name in first
                ),
            )
        )
    evaluated = list(_evaluated(saved))
    if evaluated:
        parts.append(
            "By `python -m llm.evaluate`, on held-out problems, with 95 % bootstrap intervals over "
            "problems:\n\n"
            + _table(("task", "decoding", "problems", "samples", "pass@k"), evaluated)
        )
    return "\n\n".join(parts) or "None were measured."


def _metrics(saved: SavedModel) -> Iterator[dict[str, Any]]:
    """Metrics of steps with an evaluation, up to the checkpoint's step."""
    path = saved.run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
            evaluated = row["step"] <= saved.step and "eval/pass@1" in row
        except UNREADABLE:
            continue  # partial line of a killed run
        if evaluated:
            yield row


def _evaluated(saved: SavedModel) -> Iterator[tuple[str, ...]]:
    """Table rows with the results of `llm.evaluate` for this checkpoint."""
    revision = saved.revision()
    for path in sorted((saved.run / "evaluations").glob("**/results.json")):
        try:
            results = json.loads(path.read_bytes())["results"]
            rows = [_row(result) for result in results if result["settings"]["model"] == revision]
        except UNREADABLE:
            continue
        yield from rows


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    """Table row of a result of `llm.evaluate`."""
    passed = "; ".join(
        f"pass@{k} {e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
        for k, e in result["pass_at"].items()
    )
    return (result["task"], result["decoding"], str(result["problems"]),
            str(result["samples"]), passed)  # fmt: skip


def _versions(saved: SavedModel) -> str:
    try:
        start = dict(json.loads((saved.run / "environment.json").read_bytes())[-1])
        start["versions"] = dict(start["versions"])
    except (OSError, *UNREADABLE):
        start = {}
    environments = {"trained with": start, "exported with": environment()}
    rows = [
        (name, *(str(e.get("versions", {}).get(name, "–")) for e in environments.values()))
        for name in PACKAGES
        if any(name in e.get("versions", {}) for e in environments.values())
    ]
    rows += [
        (name, *(str(e.get(name) or "–") for e in environments.values()))
        for name in ("python", "commit", "device", "time")
    ]
    return _table(("", *environments), rows) + "\n\nA `+` after a commit: uncommitted changes."


def _settings(saved: SavedModel, config: TrainConfig) -> str:
    """All settings as YAML, without local folders."""
    public = dataclasses.replace(config, model=base_name(saved), output="", resume="never")
    return public.to_yaml()


def _table(headings: tuple[str, ...], rows: Any) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
