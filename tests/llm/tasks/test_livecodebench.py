"""Hidden tests of LiveCodeBench: valid pickles are read, all others are refused unread."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from llm.tasks import livecodebench
from tests.llm.tasks.rows import packed

CASES = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


def row(**changes: Any) -> dict[str, Any]:
    public = [{"input": "0\n", "output": "0\n", "testtype": "stdin"}]
    fields = {
        "public_test_cases": json.dumps(public),
        "private_test_cases": packed(CASES),
        "metadata": "{}",
    }
    return {**fields, **changes}


def encoded(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def test_tests__public_tests_precede_hidden_tests() -> None:
    expected = {"fn_name": None, "inputs": ["0\n", "1\n"], "outputs": ["0\n", "2\n"]}
    assert livecodebench.tests(row()) == expected
    assert livecodebench.tests(row(private_test_cases=json.dumps(CASES))) == expected
    called = row(metadata='{"func_name": "double"}')
    assert livecodebench.tests(called) == {**expected, "fn_name": "double"}


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", [1, 300, 70_000])
def test_tests__all_pickle_protocols_are_read(protocol: int, size: int) -> None:
    cases = [{"input": "é" * size, "output": "", "testtype": "stdin"}]
    text = json.dumps(cases, ensure_ascii=False)
    unit_tests = livecodebench.tests(row(private_test_cases=encoded(pickle.dumps(text, protocol))))
    assert unit_tests["inputs"][1] == "é" * size


class Bomb:
    """Object whose pickle creates a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


def test_tests__a_pickle_is_never_run(tmp_path: Path) -> None:
    created = tmp_path / "created"
    for content in (Bomb(created), [json.dumps(CASES), Bomb(created)], {"a": Bomb(created)}):
        for protocol in (0, 2, 4):
            hidden = encoded(pickle.dumps(content, protocol))
            with pytest.raises(ValueError, match=r"'private_test_cases' cannot be read: ValueErr"):
                livecodebench.tests(row(private_test_cases=hidden))
    assert not created.exists()
    pickle.loads(pickle.dumps(Bomb(created)))  # shows that loading it would create the file
    assert created.exists()


LISTED = pickle.dumps(CASES)
DAMAGED: dict[str, dict[str, Any]] = {
    "base 64": {"private_test_cases": "%%%"},
    "zlib": {"private_test_cases": base64.b64encode(b"tests").decode()},
    "a cut archive": {"private_test_cases": encoded(pickle.dumps("[]"))[:12]},
    "a cut pickle": {"private_test_cases": encoded(pickle.dumps(json.dumps(CASES))[:-5])},
    "two texts": {"private_test_cases": encoded(pickle.dumps(("[]", "[]")))},
    "no text": {"private_test_cases": encoded(pickle.dumps(3))},
    "a list": {"private_test_cases": encoded(LISTED)},
    "pickled words": {"private_test_cases": encoded(pickle.dumps("no JSON"))},
    "no list": {"private_test_cases": packed({"input": ""})},
    "no output": {"private_test_cases": packed([{"input": "1"}])},
    "numbers": {"private_test_cases": packed([{"input": 1, "output": 2}])},
    "null": {"private_test_cases": None},
    "public": {"public_test_cases": "[{]"},
    "metadata": {"metadata": "{"},
    "no tests": {"public_test_cases": "[]", "private_test_cases": "[]"},
    "no function": {
        "private_test_cases": packed([{"input": "1", "output": "2", "testtype": "functional"}])
    },
}


@pytest.mark.parametrize("case", DAMAGED)
def test_tests__damaged_fields_are_refused(case: str) -> None:
    with pytest.raises(ValueError) as raised:
        livecodebench.tests(row(**DAMAGED[case]))
    message = str(raised.value)
    assert "\n" not in message and len(message) < 200
    assert case == "no tests" or next(iter(DAMAGED[case])) in message or "metadata" in message


def test_tests__inflated_size_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livecodebench, "LARGEST", 1 << 20)
    hidden = encoded(pickle.dumps(json.dumps([{"input": "1" * (1 << 21), "output": ""}])))
    assert len(hidden) < 4000
    with pytest.raises(ValueError, match="more than 1 MiB of tests"):
        livecodebench.tests(row(private_test_cases=hidden))
