from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm.verifiers import Verification, make_verifier
from llm.verifiers import sandbox as sandboxes
from llm.verifiers.code_blocks import program
from llm.verifiers.programs import CodeVerifier, read_tests, same_output, same_value
from llm.verifiers.sandbox import KINDS, find_sandbox
from tests.llm.verifiers.programs import none_left, processes, sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs run on Linux only")

PASS, FAIL = Verification(1.0), Verification(0.0)


@pytest.fixture(params=["bwrap", pytest.param("namespaces", marks=pytest.mark.slow), "plain"])
def verifier(request: pytest.FixtureRequest) -> Iterator[CodeVerifier]:
    box = sandbox(request.param)
    before = processes()
    yield make(box.kind)
    assert none_left(before), "a program left a process behind"


def make(kind: str, **options: Any) -> CodeVerifier:
    """A verifier with the sandbox of this kind: as where nothing better works."""
    box = sandbox(kind)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr("llm.verifiers.programs.find_sandbox", lambda python: (box, "tested"))
        if kind == "bwrap":
            return CodeVerifier(**{"allow_code": True, "timeout": 1.0, **options})
        with pytest.warns(RuntimeWarning, match=r"^code: programs run with.* in no sandbox"):
            return CodeVerifier(**{"allow_code": True, "timeout": 1.0, **options})


def fenced(source: str) -> str:
    return f"Here it is.\n```python\n{source}\n```\n"


def stdin(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"inputs": [i for i, _ in pairs], "outputs": [o for _, o in pairs]}


def calls(name: str, *pairs: tuple[list[Any], Any]) -> dict[str, Any]:
    return {"inputs": [i for i, _ in pairs], "outputs": [o for _, o in pairs], "fn_name": name}


DOUBLE = stdin(("1\n", "2\n"), ("21\n", "42\n"))
ADD = calls("add", ([1, 2], 3), ([[1], [2]], [1, 2]))
PAIR = calls("pair", ([1], [1, 1]), (["a"], ["a", "a"]))

#: Tests, a program, and whether it passes.
CASES: list[tuple[dict[str, Any], str, bool]] = [
    (DOUBLE, "print(2 * int(input()))", True),
    (DOUBLE, "import sys\nprint(2 * int(sys.stdin.read()), end='  \\n\\n')", True),
    (DOUBLE, "def main(): print(2 * int(input()))\nif __name__ == '__main__': main()", True),
    (DOUBLE, "print(2.0 * int(input()))", True),
    (DOUBLE, "import sys\nprint(2 * int(input()))\nsys.exit(0)", True),
    (DOUBLE, "from threading import *\nThread(target=lambda: print(2 * int(input()))).start()",
     True),
    (DOUBLE, "import dataclasses as d\n@d.dataclass\nclass A: x: 'int'\n"
             "print(2 * A(int(input())).x)", True),
    # as in LiveCodeBench: its imports, and its limit of calls within calls
    (DOUBLE, "d = defaultdict(int)\nd[1] += int(stdin.readline())\nprint(math.floor(2 * d[1]))",
     True),
    (DOUBLE, "n = 2 * int(input())\nprint(bisect.bisect(range(99), n) - random.choice([1]))", True),
    (DOUBLE, "print(reduce(mul, [2, int(input())]))\nexit()", True),
    (DOUBLE, "print(2 * int(input()))\nquit()", True),
    (stdin(("9000", "9000")), "def f(n): return n and 1 + f(n - 1)\nprint(f(int(input())))", True),
    (calls("f", ([9000], 9000)), "def f(n): return n and 1 + f(n - 1)", True),
    (calls("f", ([[1]], [1])), "class Solution:\n  def f(self, x): return copy.deepcopy(x)", True),
    (calls("f", ([1], True)), "def f(x): return x < sys.maxsize and datetime.MAXYEAR > x", True),
    (calls("f", ([[3, 1]], 2)), "def f(x): return json.loads(str(mean(x)))", True),
    (DOUBLE, "import sys\nprint(2 * int(input()))\nsys.exit(1)", True),
    (DOUBLE, "print(2 * int(input()))\nraise SystemExit('done')", True),
    (DOUBLE, "import sys\nprint(3 * int(input()))\nsys.exit(0)", False),
    (stdin(("5000", "1" + 5000 * "0")), "print(10 ** int(input()))", True),
    (calls("f", ([5000], "1" + 5000 * "0")), "def f(n): return 10 ** n", True),
    (calls("f", ([5000], "2" + 5000 * "0")), "def f(n): return 10 ** n", False),
    (ADD, "import sys\ndef add(a, b): sys.exit(0)", False),
    (DOUBLE, "import numpy\nprint(2 * int(input()))", False),
    (DOUBLE, "print(3 * int(input()))", False),
    (DOUBLE, "print(2)", False),
    (DOUBLE, "print(2 * int(input()))\nprint('done')", False),
    (DOUBLE, "print(2 * int(input()))\nraise ValueError", False),
    (DOUBLE, "print(2 * int(input())", False),
    (DOUBLE, "import os\nos._exit(0)", False),
    (DOUBLE, "import sys\nsys.exit()", False),
    (DOUBLE, "def f(n): return f(n + 1)\nf(0)", False),
    (DOUBLE, "import os\nos.write(1, b'\\xff\\xfe')", False),
    (DOUBLE, "while True: pass", False),
    (ADD, "def add(a, b): return a + b", True),
    (ADD, "class Solution:\n    def add(self, a: List[int], b: Optional[int]): return a + b", True),
    (ADD, "print('hello')\nadd = lambda a, b: a + b", True),
    (PAIR, "def pair(x): return (x, x)", True),
    (calls("f", ([4], [1, 2])), "def f(n): return list(Counter([1, 2]))[:bisect_left(range(9), n)]",
     True),
    (calls("f", ([4], 2.0)), "def f(n): return math.sqrt(n)", True),
    (calls("f", ([2], 8)), "def f(n): return pow(n, 3, 100)", True),
    (calls("f", ([], {"a": None, "1": True})), "def f(): return {'a': None, 1: True}", True),
    (calls("f", ([0.1, 0.2], 0.30000000000000004)), "def f(a, b): return a + b", True),
    (ADD, "def add(a, b): return b", False),
    (ADD, "def sub(a, b): return a + b", False),
    (calls("gcd", ([4, 6], 2)), "pass", False),
    (ADD, "def add(a): return a", False),
    (ADD, "def add(a, b): print(a + b)", False),
    (ADD, "def add(a, b): return {a + b}", False),
    (ADD, "def add(a, b):\n    import os\n    os._exit(0)", False),
    (calls("f", ([], 1)), "f = 1", False),
    (calls("f", ([], [1])), "def f():\n    a = [1]\n    a.append(a)\n    return a", False),
    (calls("f", ([], 0)), "def f(): return float('nan')", False),
    (calls("f", ([], 0)), "def f(): return 10 ** 5000", False),
]  # fmt: skip


def test_cases(verifier: CodeVerifier) -> None:
    verifier.limits = verifier.limits._replace(wall=60.0)
    cases = CASES
    if verifier.sandbox.kind == "namespaces":  # whose interpreter is that of "plain"
        cases = [case for case in CASES if "import" in case[1] or "while" in case[1]]
    found = verifier([tests for tests, _, _ in cases], [fenced(source) for _, source, _ in cases])
    for (_, source, passes), verdict in zip(cases, found, strict=True):
        assert verdict == (PASS if passes else FAIL), source


CHEATS = [
    # an object that is equal to everything
    "class Any(int):\n    def __eq__(self, other): return True\ndef f(): return Any(7)",
    "class Any(str):\n    def __eq__(self, other): return True\ndef f(): return Any('7')",
    # another comparison, another encoder
    "import json, operator, builtins\njson.loads = lambda *a: 0\noperator.eq = lambda *a: True\n"
    "json.dumps = lambda *a: 'true'\nbuiltins.all = lambda *a: True\ndef f(): return 7",
    "import sys\nfor m in list(sys.modules.values()):\n"
    "    if hasattr(m, 'dumps'): m.dumps = lambda *a, **k: '*'\ndef f(): return 7",
    # results printed where they are read
    "import os, sys\nfor fd in range(1, 9):\n"
    "    try: os.write(fd, b'0' * 32 + b' 1234567\\n')\n    except OSError: pass\nos._exit(0)",
    "import os\nfor fd in range(1, 9):\n"
    "    try: os.write(fd, b'true\\n')\n    except OSError: pass\ndef f(): return 7",
    # the end before the test
    "import os\nos._exit(0)",
    "import sys\ndef f(): sys.exit(0)",
    "raise SystemExit(0)",
    "import os\nos.kill(os.getpid(), 9)",
]

# Looks in every string, file and descriptor it can get hold of for the answer, and gives it.
SEEKER = r"""
import gc, glob, os, re, sys
places = [repr(sys.argv), repr(dict(os.environ))]
frame = sys._getframe()
while frame:
    places.append(repr({**frame.f_globals, **frame.f_locals}))
    frame = frame.f_back
for thing in gc.get_objects():
    try: places.append(repr(thing)[:10**6])
    except Exception: pass
patterns = '/proc/self/fd/* /tmp/* /tmp/*/* * /proc/*/environ /proc/*/cmdline /runner.py'
for path in [path for pattern in patterns.split() for path in glob.glob(pattern)]:
    try:
        if os.path.isfile(path) and os.path.getsize(path) < 10**7:
            places.append(open(path, 'rb').read().decode('latin1'))
    except OSError: pass
found = re.search('seek' + 'me-[0-9a-f]{16}', ' '.join(places))
answer = found[0] if found else ''
"""


def test_cheating_does_not_pay(verifier: CodeVerifier) -> None:
    tests = calls("f", ([], 1234567))
    found = verifier([tests] * len(CHEATS), [fenced(source) for source in CHEATS])
    assert found == [FAIL] * len(CHEATS)


def test_expected_answers_are_nowhere(verifier: CodeVerifier) -> None:
    secret = "seek" + "me-" + os.urandom(8).hex()
    slow = make(verifier.sandbox.kind, timeout=20.0)
    answers = [stdin(("x", secret)), calls("f", (["x"], secret)), stdin((secret, secret))]
    answers[1]["outputs"] = [json.dumps(secret)]
    both = SEEKER + "\ndef f(x): return answer\nif __name__ == '__main__': print(answer)"
    # The last shows that the search does find what is there: its input is its answer.
    assert slow(answers, [fenced(both)] * 3) == [FAIL, FAIL, PASS]


def test_a_clock_that_runs_out_is_no_wrong_answer(verifier: CodeVerifier) -> None:
    texts = [fenced("import time\ntime.sleep(60)"), "no program", fenced("print(2 * int(input()))")]
    verifier.limits = verifier.limits._replace(wall=2.0)
    assert verifier([DOUBLE] * 3, texts) == [Verification(0.0, "timeout"), FAIL, PASS]


def test_a_sandbox_that_fails_is_no_wrong_answer() -> None:
    verifier = make("plain")
    verifier.limits = verifier.limits._replace(memory=1 << 20)
    # So little memory that not even the first line can be written is the program's misfortune...
    verdict = verifier([DOUBLE], [fenced("print(2 * int(input()))")])[0]
    assert verdict in (FAIL, Verification(0.0, "sandbox"))
    # ...but an interpreter that is gone is not.
    verifier.sandbox = sandboxes.Sandbox("plain", "/bin/false")
    assert verifier([DOUBLE], [fenced("print(1)")]) == [Verification(0.0, "sandbox")]


def test_the_share_of_tests() -> None:
    verifier = make("plain", reward="fraction")
    tests = stdin(("1", "1"), ("2", "2"), ("3", "9"), ("4", "4"))
    texts = [fenced("print(input())"), fenced("print(9)"), fenced("x"), "none"]
    assert [v.reward for v in verifier([tests] * 4, texts)] == [0.75, 0.25, 0.0, 0.0]


def test_a_program_that_takes_all_its_time_is_not_run_on_every_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verifier = make("plain", reward="fraction")
    ran: list[str] = []
    run = sandboxes.Sandbox.run

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        ran.append(options["stdin"])
        return run(self, *args, **options)

    monkeypatch.setattr(sandboxes.Sandbox, "run", counted)
    verifier.limits = verifier.limits._replace(wall=60.0)
    tests = stdin(*((str(i), str(i)) for i in range(9)))
    source = "n = int(input())\nwhile n in (1, 3, 4): pass\nprint(n)"
    assert verifier([tests], [fenced(source)]) == [Verification(2 / 9)]
    assert ran == ["0", "1", "2", "3", "4"]


def test_programs_run_on_all_cores() -> None:
    assert make("plain").jobs == len(os.sched_getaffinity(0))


def test_programs_run_side_by_side() -> None:
    texts = [fenced("import time\ntime.sleep(0.7)\nprint(input())")] * 4
    seconds = []
    for jobs in (1, 4):
        verifier = make("plain", jobs=jobs, timeout=20.0)
        start = time.monotonic()
        assert verifier([stdin(("1", "1"))] * 4, texts) == [PASS] * 4
        seconds.append(time.monotonic() - start)
    assert seconds[0] > 2.8
    assert seconds[1] < seconds[0] - 0.7


def test_ctrl_c_ends_the_programs() -> None:
    before = processes()
    verifier = make("plain", timeout=60.0)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        verifier([DOUBLE] * 9, [fenced("import time\ntime.sleep(60)")] * 9)
    assert time.monotonic() - start < 15
    assert none_left(before)


PROGRAMS: list[tuple[str, str | None]] = [
    ("```python\na\n```", "a\n"),
    ("```py\na\n```\n```Python3\nb\n```", "b\n"),
    ("```python\na\n```\nwhich prints\n```\n3\n```", "a\n"),
    ("```python\na\n```\n```bash\nls\n```", "a\n"),
    ("```\na\n```", "a\n"),
    ("```bash\nls\n```", None),
    ("no program", None),
    ("```python\na\nb", "a\nb"),
    ("```python\na\n``` and so on\n```", "a\n``` and so on\n"),
    ("~~~python\na\n~~~", "a\n"),
    ("````python\na = '''\n```\n'''\n````", "a = '''\n```\n'''\n"),
    ("```python\na = '''\n```\n'''\nb\n```\nend", "a = '''\n```\n'''\nb\n"),
    (
        '```python\n"""Use:\n```python\nf()\n```\n"""\nb\n```',
        '"""Use:\n```python\nf()\n```\n"""\nb\n',
    ),
    ('```python\n# don\'t """\na\n```\nit\'s', '# don\'t """\na\n'),
    ("```python\na = \"'''\"\n```\nit's '''", "a = \"'''\"\n"),
    ("```python\na = '''\n```\n", "a = '''\n"),
    ("1. So\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b\n"),
    ('```text\nit\'s """ odd\n```\n```python\na\n```', "a\n"),
    ("```python title=x\na\n```", "a\n"),
    ("```python\r\na\r\n```\r\n", "a\n"),
    ("```python\n```", ""),
    ("```python\nfirst\n```\n```python\n", ""),
]


@pytest.mark.parametrize(("text", "source"), PROGRAMS)
def test_the_last_block_of_python(text: str, source: str | None) -> None:
    assert program(text) == source


@pytest.mark.parametrize(
    "part", ["```python\n", "```\n", "'''", '"', "``` `\n", "~~~\n'''\n", "`", "\n", "#"]
)
def test_long_texts_take_no_time(part: str) -> None:
    start = time.process_time()
    program(part * 20_000)
    program("```python\n" + part * 20_000)
    assert time.process_time() - start < 5


def test_delimiters_of_thoughts_are_no_part_of_a_program() -> None:
    cut = (
        "I think.</thought>\n```python</thought>\nn = int(</thought>input())\n"
        "print(2 * n)</thought>\n```</thought>\n"
    )
    assert make("plain")([DOUBLE], [cut]) == [PASS]
    assert make("plain", strip=["<|end|>"])([DOUBLE], [cut.replace("</thought>", "<|end|>")]) == [
        PASS
    ]
    assert make("plain", strip=())([DOUBLE], [cut]) == [FAIL]


OUTPUTS = [
    ("1\n2\n", "1\n2", True),
    ("1 \n 2", "1\n2\n\n", True),
    ("1.0 2", "1 2.00", True),
    ("1e3", "1000", True),
    ("yes", "yes", True),
    ("", "", True),
    ("1\n2", "1 2", False),
    ("1", "1\n1", False),
    ("yes", "Yes", False),
    ("0.33333", "0.333333", False),
    ("nan", "NaN", False),
    ("1", "", False),
    ("1 a", "1.0 a", False),
    ("1", "sNaN", False),
    ("1", "1e999999999999999999999", False),
    ("inf", "Infinity", True),
]


@pytest.mark.parametrize(("expected", "output", "same"), OUTPUTS)
def test_outputs(expected: str, output: str, same: bool) -> None:
    assert same_output(expected, output) is same


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("0.3333", "0.33330001", True),
        ("0.3333", "0.3334", False),
        ("1000000.0", "1000000.9", True),
        ("1 a", "1 a", True),
        ("2", "1.9999999999", True),
        ("50000000000000000", "50000000000000001", False),
        ("1e400", "2e400", False),
        ("0.5", "nan", False),
        ("0.5", "sNaN", False),
        ("x", "y", False),
    ],
)
def test_outputs__within_a_tolerance(expected: str, output: str, same: bool) -> None:
    assert same_output(expected, output, 1e-6) is same


def test_values__within_a_tolerance() -> None:
    near = [0.1, {"a": [2, 0.3]}, "x", None]
    assert same_value(near, [0.1 + 1e-9, {"a": [2.0000000001, 0.3]}, "x", None], 1e-6)
    assert not same_value(near, [0.1 + 1e-9, {"a": [2, 0.3]}, "x", None])
    for value in ([0.2, *near[1:]], near[:3], [0.1, {"b": [2, 0.3]}, "x", None], 0.1, None):
        assert not same_value(near, value, 1e-6)
    assert not same_value(10**17, 10**17 + 1, 1e-6) and not same_value(0.5, 10**400, 1e-6)


def test_code__tolerance() -> None:
    tests = [stdin(("", "0.333333333")), calls("third", ([], 1 / 3))]
    source = fenced("def third(): return 0.3333333\nif __name__ == '__main__': print(third())")
    assert make("plain")(tests, [source] * 2) == [FAIL] * 2
    assert make("plain", tolerance=1e-6)(tests, [source] * 2) == [PASS] * 2


def test_code__a_full_disk_ends_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verifier = make("plain")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))  # no folder can be made
    assert verifier([DOUBLE], [fenced("print(1)")]) == [Verification(0.0, "sandbox")]


def test_both_forms_of_tests() -> None:
    rows = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
    assert read_tests(rows) == read_tests(json.dumps(rows)) == read_tests(stdin(("1\n", "2\n")))
    functional = {"input": '[1, 2]\n"x"', "output": "[1]", "testtype": "functional", "fn_name": "f"}
    assert read_tests([functional]) == read_tests(calls("f", ([[1, 2], "x"], [1])))
    assert read_tests(json.dumps({**stdin(("a", "b")), "fn_name": None}))[0].function == ""
    assert read_tests(calls("f", ([{1: (2,)}], (3,))))[0][1:] == ([{"1": [2]}], [3])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("no", "the tests 'no' is not JSON"),
        (None, "tests are a NoneType, not"),
        ("[]", "there is no test"),
        ({"inputs": [], "outputs": []}, "there is no test"),
        ({"input": "1"}, "lack lists 'inputs' and 'outputs'"),
        ({"inputs": "1", "outputs": "2"}, "lack lists 'inputs' and 'outputs'"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs, but 0 outputs"),
        ([{"input": "1"}], "lacks 'input' or 'output'"),
        ([["1", "2"]], "tests are a list, not"),
        ([{"input": "1", "output": "2", "testtype": "functional"}], "lacks 'fn_name'"),
        ({"inputs": [[1]], "outputs": ["2"]}, "must be texts"),
        ({"inputs": [[1]], "outputs": [2], "fn_name": "a.b"}, "fn_name: 'a.b' is not the name"),
        ({"inputs": ["(1"], "outputs": ["2"], "fn_name": "f"}, "an argument .* is not JSON"),
        ({"inputs": ["1"], "outputs": ["x"], "fn_name": "f"}, "a value to return 'x' is not JSON"),
        ({"inputs": [1], "outputs": [2], "fn_name": "f"}, "the arguments 1 of f are not a list"),
        ({"inputs": [[{1}]], "outputs": [2], "fn_name": "f"}, "a test of f is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_tests_are_checked(answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^code: .*{message}"):
        make("plain").check_answer(answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "it runs programs that a model wrote; .*--task_args.verifier_args.allow_code true "
            r"\(llm.train\), or --tasks NAME verifier_args.allow_code=true \(llm.evaluate\)",
        ),
        ({"allow_code": "yes"}, "it runs programs"),
        ({"allow_code": True, "timeout": 0}, r"timeout=0, memory=1024, jobs=\d+: must be > 0"),
        ({"allow_code": True, "timeout": float("inf")}, "timeout=inf"),
        ({"allow_code": True, "tolerance": -1.0}, "tolerance=-1.0: must be ≥ 0"),
        ({"allow_code": True, "memory": 1}, "timeout=6.0, memory=1,"),
        ({"allow_code": True, "jobs": 0}, ".*jobs=0:"),
        ({"allow_code": True, "reward": "most"}, "reward='most' is not one of 'all', 'fraction'"),
        ({"allow_code": True, "strip": "x"}, "strip='x' is not a list of texts"),
        ({"allow_code": True, "python": "/no/python"}, "no program can be run"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^code: {message}"):
        make_verifier("code", **options)


def test_by_its_name_it_takes_the_best_sandbox() -> None:
    best = next(kind for kind in KINDS if not sandboxes.not_working(sandbox(kind)))
    python = sandbox(best).python
    find_sandbox.cache_clear()
    verifier: Any
    if best == "bwrap":  # no warning: it is one
        verifier = make_verifier("code", allow_code=True, python=python)
    else:
        with pytest.warns(RuntimeWarning):
            verifier = make_verifier("code", allow_code=True, python=python)
    assert verifier.sandbox.kind == best
    assert verifier([DOUBLE], [fenced("print(2 * int(input()))")]) == [PASS]
