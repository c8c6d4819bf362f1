"""Unknown options: the message names the one that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

import llm
from llm.config.suggestions import ELSEWHERE, option_names, suggestion
from llm.config.train import TrainConfig, parse_config

#: A name of TRL, or a slip, and the end of the message.
MEANT = {
    "learning_rate": "did you mean optimizer.learning_rate?",
    "optimizer.lr": "did you mean optimizer.learning_rate?",
    "temperature": "did you mean sampling.temperature or localization.temperature?",
    "num_generations": "did you mean plan.fresh?",
    "use_vllm": "did you mean engine vllm?",
    "vllm_gpu_memory_utilization": "did you mean vllm.gpu_memory_utilization?",
    "lora_r": "did you mean lora.r?",
    "sampling.temprature": "did you mean sampling.temperature",
    "learning_rte": "did you mean optimizer.learning_rate?",
    "stepz": "did you mean steps",
    "zzz": "--help_all lists the options",
}


@pytest.mark.parametrize(("name", "end"), MEANT.items())
def test_suggestion__of_flags_files_and_settings(name: str, end: str, tmp_path: Path) -> None:
    assert end in suggestion(name, TrainConfig)
    with pytest.raises(ValueError, match="unrecognized arguments: --") as flag:
        parse_config(["--model=m", f"--{name}", "3"], "prog")
    assert end in str(flag.value)
    section, dot, key = name.rpartition(".")
    file = tmp_path / "my.yaml"
    file.write_text(f"{section}: {{{key}: 3}}" if dot else f"{name}: 3")
    with pytest.raises(ValueError) as content:
        parse_config([f"--config={file}", "--model=m"], "prog")
    assert str(content.value).startswith(f"--config: {file}: no option {name}; ")
    assert end in str(content.value)


def test_suggestion__of_settings_in_python() -> None:
    with pytest.raises(ValueError, match=r"learning_rate: no setting .* optimizer\.learning_rate"):
        llm.train_model("chain-base", learning_rate=1e-6)


def test_elsewhere__names_no_option_here_and_points_at_one() -> None:
    names = set(option_names(TrainConfig))
    assert {option.partition(" ")[0] for option in ELSEWHERE.values()} <= names
    assert not names & ELSEWHERE.keys()


def test_parse_config__arguments_of_a_task_are_named_one_by_one() -> None:
    with pytest.raises(ValueError, match=r"task_args: name each .* --task_args\.NAME VALUE"):
        parse_config(["--model=m", "--task_args", "length=5"], "prog")
