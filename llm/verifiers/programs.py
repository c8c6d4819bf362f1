"""Verifier of programs, which runs their unit tests, in a sandbox if one is available."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, get_args

from llm.verifiers.code_blocks import program
from llm.verifiers.in_threads import in_threads
from llm.verifiers.sandbox import Limits, find_sandbox
from llm.verifiers.verifier import Verification

Reward = Literal["all", "fraction"]

#: This interpreter; in a virtual environment, its base interpreter.
PYTHON: str = getattr(sys, "_base_executable", sys.executable)

#: Exit statuses of a program that used up its processor time.
USED_UP = (128 + signal.SIGXCPU, 128 + signal.SIGKILL)
#: After so many such tests a program's other tests count as failed: each may take seconds.
MOST_USED_UP = 3


class Test(NamedTuple):
    """A unit test, which gives a text on standard input or the arguments of a function."""

    function: str
    given: Any
    expected: Any


def read_tests(answer: Any) -> list[Test]:
    """Parse the unit tests of an answer, given in one of LiveCodeBench's two forms or as JSON.

    ``{"inputs": […], "outputs": […], "fn_name": "twoSum"}``
        `fn_name` is null or absent for programs that read standard input.
    ``[{"input": …, "output": …, "testtype": "stdin"}, …]``
        `testtype` may be "functional"; each test then also has `fn_name`.

    The input of a function is a list of its arguments, or a text with one argument per line as
    JSON. Its output is the expected value, or a text with the value as JSON.

    Raises
    ------
    ValueError
        If the answer has another form, or no test.
    """
    tests = _json(answer, "the tests") if isinstance(answer, str) else answer
    if isinstance(tests, dict):
        inputs, outputs = tests.get("inputs"), tests.get("outputs")
        if not isinstance(inputs, list | tuple) or not isinstance(outputs, list | tuple):
            raise ValueError(
                f"code: tests with keys {list(tests)} lack lists 'inputs' and 'outputs'"
            )
        if len(inputs) != len(outputs):
            raise ValueError(f"code: {len(inputs)} inputs, but {len(outputs)} outputs")
        name = tests.get("fn_name")
        read = [_test(name, i, o) for i, o in zip(inputs, outputs, strict=True)]
    elif isinstance(tests, list | tuple) and all(isinstance(test, dict) for test in tests):
        read = []
        for test in tests:
            if not {"input", "output"} <= set(test):
                raise ValueError(f"code: a test with keys {list(test)} lacks 'input' or 'output'")
            name = test.get("fn_name")
            if test.get("testtype") == "functional" and not name:
                raise ValueError("code: a functional test lacks 'fn_name', the function to call")
            read.append(_test(name, test["input"], test["output"]))
    else:
        raise ValueError(
            f"code: tests are a {type(tests).__name__}, not {{'inputs': […], 'outputs': […]}} or "
            "[{'input': …, 'output': …}, …]"
        )
    if not read:
        raise ValueError("code: there is no test")
    return read


def _test(name: Any, given: Any, expected: Any) -> Test:
    if not name:
        if not isinstance(given, str) or not isinstance(expected, str):
            raise ValueError(
                f"code: input {given!r:.60} and output {expected!r:.60} must be texts, as no "
                "'fn_name' says which function to call"
            )
        return Test("", given, expected)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"code: fn_name: {name!r} is not the name of a function")
    if isinstance(given, str):
        given = [_json(line, "an argument") for line in given.split("\n") if line.strip()]
    if not isinstance(given, list | tuple):
        raise ValueError(f"code: the arguments {given!r:.60} of {name} are not a list")
    try:  # convert to JSON types, like the value that the function returns
        given = json.loads(json.dumps(list(given)))
        expected = expected if isinstance(expected, str) else json.dumps(expected)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"code: a test of {name} is not JSON: {error}") from None
    return Test(name, given, _json(expected, "a value to return"))


def _json(text: str | bytes, name: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"code: {name} {text!r:.60} is not JSON: {error}") from None


def _integer(digits: str) -> int:
    """Parse an integer; Python's `int` refuses more than 4,300 digits."""
    return int(Decimal(digits))


def same_output(expected: str, output: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs agree line by line, ignoring white space at the ends of lines.

    As in LiveCodeBench, numbers are compared by value, and exactly if the tolerance is 0: 1.0 is 1,
    but 0.3333 is not 1/3.
    """
    lines = [[line.strip() for line in text.strip().split("\n")] for text in (expected, output)]
    if len(lines[0]) != len(lines[1]):
        return False
    return all(a == b or _same_numbers(a, b, tolerance) for a, b in zip(*lines, strict=True))


def _same_numbers(expected: str, output: str, tolerance: float) -> bool:
    wanted, printed = expected.split(), output.split()
    if len(wanted) != len(printed):
        return False
    try:
        return all(
            _close(Decimal(a), Decimal(b), tolerance) for a, b in zip(wanted, printed, strict=True)
        )
    except (ArithmeticError, ValueError):  # some are not numbers, or signalling NaNs
        return False


def _close(expected: Any, value: Any, tolerance: float) -> bool:
    """Whether two numbers are equal, or within the tolerance unless both are whole."""
    if not tolerance or (_is_whole(expected) and _is_whole(value)):
        return bool(expected == value)
    try:
        wanted, found = float(expected), float(value)
    except (OverflowError, ValueError):  # too large, or a signalling NaN
        return False
    return wanted == found or abs(found - wanted) <= tolerance * max(1.0, abs(wanted)) < math.inf


def _is_whole(number: Any) -> bool:
    """Whether a number is written without decimals."""
    return isinstance(number, int) or bool(isinstance(number, Decimal) and "." not in str(number))


def same_value(expected: Any, value: Any, tolerance: float = 0.0) -> bool:
    """Whether two JSON values are equal, numbers in them within the tolerance."""
    if expected == value or not tolerance:
        return bool(expected == value)
    if isinstance(expected, list) and isinstance(value, list):
        return len(expected) == len(value) and all(
            same_value(a, b, tolerance) for a, b in zip(expected, value, strict=True)
        )
    if isinstance(expected, dict) and isinstance(value, dict):
        return expected.keys() == value.keys() and all(
            same_value(expected[key], value[key], tolerance) for key in expected
        )
    numbers = isinstance(expected, int | float) and isinstance(value, int | float)
    return numbers and _close(expected, value, tolerance)


class CodeVerifier:
    """Reward 1 for a program that passes all its unit tests.

    The program is the last fenced block of Python (`program`). The answer holds the tests
    (`read_tests`). Each test runs in a separate process, under the limits of
    `llm.verifiers.sandbox`. Expected outputs are compared in this process and never enter the
    sandbox. A program may use the standard library, but not numpy. As in LiveCodeBench, common
    modules are imported, the recursion limit is 50,000, integers of up to 50,000 digits can be
    printed, and `class Solution` may define the function. A program that reads standard input may
    end with `sys.exit(1)`: its output counts.

    A program that raises an error, uses too much processor time or memory, or prints or writes too
    much is wrong. The failure is "timeout" if the wall-clock limit ended the program: on a busy
    machine this can happen to a correct program. It is "sandbox" if the program could not be
    started.

    Parameters
    ----------
    allow_code : bool
        Must be true: the verifier runs programs that a model wrote.
    timeout : float
        Seconds of processor time for a test, rounded up. The wall-clock limit is three times
        that, plus 5 s.
    memory : int
        MiB of address space.
    reward : {"all", "fraction"}
        "all": reward 1 if all tests pass. "fraction": the fraction of tests passed. Once three
        tests have used up their processor time, the remaining tests count as failed.
    jobs : int, optional
        Number of programs that run in parallel; by default the number of cores.
    strip : sequence of str
        Texts removed from a completion before its program is read, such as thought delimiters.
    python : str
        Interpreter that runs the programs; by default this one.
    tolerance : float
        A number a is accepted for b if |a − b| ≤ tolerance · max(1, |b|). By default 0, the rule of
        LiveCodeBench: numbers are equal.

    Raises
    ------
    ValueError
        If `allow_code` is not true, an option is out of range, or no program can be run here.

    Warns
    -----
    RuntimeWarning
        If programs run in separate processes without a sandbox.
    """

    def __init__(
        self,
        allow_code: bool = False,
        timeout: float = 6.0,
        memory: int = 1024,
        reward: Reward = "all",
        jobs: int | None = None,
        strip: Sequence[str] = ("</thought>",),
        python: str = "",
        tolerance: float = 0.0,
    ) -> None:
        if allow_code is not True:
            raise ValueError(
                "code: it runs programs that a model wrote; to allow that, preferably in a "
                "container, give --task_args.verifier_args.allow_code true (llm.train), or "
                "--tasks NAME verifier_args.allow_code=true (llm.evaluate)"
            )
        jobs = _cores() if jobs is None else jobs
        if not 0 < timeout < math.inf or memory < 64 or jobs < 1:
            raise ValueError(
                f"code: timeout={timeout}, memory={memory}, jobs={jobs}: must be > 0, ≥ 64 and ≥ 1"
            )
        if reward not in get_args(Reward):
            raise ValueError(f"code: reward={reward!r} is not one of 'all', 'fraction'")
        if isinstance(strip, str) or not all(isinstance(text, str) and text for text in strip):
            raise ValueError(f"code: strip={strip!r} is not a list of texts")
        if not 0 <= tolerance < 1:
            raise ValueError(f"code: tolerance={tolerance}: must be ≥ 0 and below 1")
        cpu = math.ceil(timeout)
        self.limits = Limits(cpu=cpu, wall=3 * cpu + 5.0, memory=memory << 20)
        self.reward, self.jobs, self.strip = reward, jobs, tuple(strip)
        self.tolerance = tolerance
        self.sandbox, why = find_sandbox(python or PYTHON)
        if self.sandbox.kind != "bwrap":
            warnings.warn(f"code: {self.sandbox.risks()}: {why}", RuntimeWarning, stacklevel=2)

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless the answer holds unit tests."""
        read_tests(answer)

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Verify completions; see the class."""
        stop = threading.Event()

        def verify(pair: tuple[Any, str]) -> Verification:
            answer, completion = pair
            for text in self.strip:
                completion = completion.replace(text, "")
            source = program(completion)
            if not source:
                return Verification(0.0)
            return self._verify(source, read_tests(answer), stop)

        pairs = zip(answers, completions, strict=True)
        return in_threads(verify, pairs, self.jobs, stop.set)

    def _verify(self, source: str, tests: Sequence[Test], stop: threading.Event) -> Verification:
        passed = used_up = 0
        for test in tests:
            try:
                outcome = self.sandbox.run(
                    source,
                    self.limits,
                    stdin="" if test.function else test.given,
                    function=test.function,
                    arguments=test.given if test.function else None,
                    stop=stop,
                )
            except OSError:  # such as a full disk, or no process left
                return Verification(0.0, "sandbox")
            if outcome.ended == "timeout":
                return Verification(0.0, "timeout")
            if not outcome.started:
                return Verification(0.0, "sandbox")
            if outcome.ended or outcome.status != 0:
                right = False
            elif test.function:
                right = _returned(test.expected, outcome.result, self.tolerance)
            else:
                text = outcome.output.decode(errors="replace")
                right = same_output(test.expected, text, self.tolerance)
            passed += right
            used_up += outcome.status in USED_UP
            if (not right and self.reward == "all") or used_up == MOST_USED_UP:
                break
        return Verification(
            float(passed == len(tests)) if self.reward == "all" else passed / len(tests)
        )


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _returned(expected: Any, result: bytes, tolerance: float) -> bool:
    try:
        return same_value(expected, _json(result, "a result"), tolerance)
    except (ValueError, ArithmeticError, RecursionError):
        return False
