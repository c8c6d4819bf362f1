"""`--list`: every name that options take."""

from __future__ import annotations

import pytest

from cpi.core.plans import ALGORITHMS
from cpi.run.__main__ import main as run
from llm.compare.__main__ import main as compare
from llm.compare.arms import KNOWN, KNOWN_REGIMES
from llm.config.algorithms import CLASSES
from llm.config.names import names
from llm.config.presets import presets
from llm.evaluate.__main__ import main as evaluate
from llm.localize.__main__ import main as localize
from llm.resets.localizers import LOCALIZERS
from llm.tasks import TASKS, declared
from llm.train.__main__ import main as train


def test_names__are_those_of_the_tables() -> None:
    assert list(names("algorithm")) == [*ALGORITHMS, *CLASSES]
    assert names("localizer").keys() == LOCALIZERS.keys()
    assert all([*names("algorithm").values(), *names("localizer").values()])
    assert list(names("task")) == [*TASKS, *declared()]
    assert names("config").keys() == presets().keys()


def test_list__of_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    named = {
        train: ["critique_grpo", "surprisal", "gsm8k", "olmo3-7b-olympiads-srpo"],
        evaluate: ["surprisal", "gsm8k"],
        compare: [*KNOWN, *KNOWN_REGIMES],
        run: ["oracle", "self", "masked-max", "certified"],
    }
    for main, expected in named.items():
        assert main(["--list"]) == 0
        shown = capsys.readouterr().out
        assert set(expected) <= set(shown.split())
        if main in (train, evaluate):
            assert max(map(len, shown.splitlines())) <= 96


def test_help__is_short_and_help_all_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for main, group in (
        (train, "sampling.top_p"),
        (evaluate, "sampling.top_p"),
        (localize, "localization.max_tokens"),
    ):
        lengths = []
        for flag in ("--help", "--help-all"):
            with pytest.raises(SystemExit) as end:
                main([flag])
            assert end.value.code == 0
            shown = capsys.readouterr().out
            lengths.append(len(shown.splitlines()))
            assert (f"--{group} " in shown) == (flag == "--help-all")
            section = group.partition(".")[0]
            assert section in shown and (flag == "--help-all" or "--help_all" in shown)
        assert lengths[0] < min(100, lengths[1])
