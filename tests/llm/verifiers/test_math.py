from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.verifiers import Verification, make_verifier
from llm.verifiers.math_equal import equal
from llm.verifiers.math_text import tidy, words
from llm.verifiers.math_worker import judge
from llm.verifiers.maths import LONGEST, MathVerifier, Pair
from llm.verifiers.workers import Worker
from tests.llm.verifiers.math_pairs import DEVIATIONS, RIGHT, WRONG
from tests.llm.verifiers.programs import none_left, processes

#: Gold answer, completion, and whether it is right. MATH-500, issues of Math-Verify, MATH style.
PAIRS = Path(__file__).with_name("answer_pairs.jsonl")
PROJECT = Path(__file__).parents[3]
RIGHT_VERDICT, WRONG_VERDICT, TIMEOUT = (
    Verification(1.0),
    Verification(0.0),
    Verification(0.0, "timeout"),
)
ENDLESS = r"\boxed{9^{9^{9^9}}}"


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    found = MathVerifier(timeout=20.0)
    yield found
    found.close()


@pytest.fixture(scope="module")
def short_of_time() -> Iterator[MathVerifier]:
    before = processes()
    found = MathVerifier(timeout=2.0, workers=1)
    yield found
    found.close()
    assert none_left(before)


@pytest.fixture
def hasty(short_of_time: MathVerifier) -> MathVerifier:
    """With a worker that has started, and 2 s for a pair."""
    for worker in short_of_time._pool:
        worker.timeout = 2.0
    assert short_of_time(["1"], [r"\boxed{1}"]) == [RIGHT_VERDICT]
    return short_of_time


def server_of(verifier: MathVerifier) -> int:
    return verifier._pool[0].server


def supervisor_of(verifier: MathVerifier) -> int:
    process = verifier._pool[0].process
    assert process is not None
    return process.pid


def test_the_table(verifier: MathVerifier) -> None:
    pairs = RIGHT + WRONG
    found = verifier(
        [gold for gold, _ in pairs], [rf"So \boxed{{{answer}}}." for _, answer in pairs]
    )
    wanted = [RIGHT_VERDICT] * len(RIGHT) + [WRONG_VERDICT] * len(WRONG)
    missed = [pair for pair, a, b in zip(pairs, found, wanted, strict=True) if a != b]
    assert not missed
    assert (
        len(pairs) >= 60 and 0.4 < len(RIGHT) / len(pairs) < 0.6 and len(set(pairs)) == len(pairs)
    )


@pytest.mark.parametrize(("gold", "answer", "right", "why"), DEVIATIONS)
@pytest.mark.xfail(strict=True, reason="known deviations, told in math_pairs.py")
def test_known_deviations(
    verifier: MathVerifier, gold: str, answer: str, right: bool, why: str
) -> None:
    assert verifier([gold], [rf"\boxed{{{answer}}}"]) == [Verification(float(right))]


def test_every_right_answer_is_equal_to_itself(verifier: MathVerifier) -> None:
    golds = [gold for gold, _ in RIGHT + WRONG]
    found = verifier(golds, [rf"\boxed{{{gold}}}" for gold in golds])
    assert [
        gold for gold, verdict in zip(golds, found, strict=True) if verdict != RIGHT_VERDICT
    ] == []


def test_answers_may_be_boxed_or_numbers(verifier: MathVerifier) -> None:
    golds = [3, 0.25, r"Thus $x = \boxed{\frac14}$.", "$3$", -7]
    texts = [r"\boxed{3}", r"\boxed{\frac14}", r"\boxed{0.25}", r"\boxed{3}", r"\boxed{7}"]
    assert [v.reward for v in verifier(golds, texts)] == [1.0, 1.0, 1.0, 1.0, 0.0]
    for gold in golds:
        verifier.check_answer(gold)


@pytest.mark.parametrize(
    "text", ["3", "the answer is $3$", r"\boxed{3", r"\boxed{}", "", r"\boxed"]
)
def test_without_a_box_there_is_no_answer(verifier: MathVerifier, text: str) -> None:
    assert verifier(["3"], [text]) == [WRONG_VERDICT]


def test_equal__pairs_of_other_projects_and_of_a_blind_author(
    verifier: MathVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [json.loads(line) for line in PAIRS.read_text().splitlines()]
    monkeypatch.setattr(verifier, "require_box", False)
    results = verifier([pair["gold"] for pair in pairs], [pair["text"] for pair in pairs])
    assert [
        p for p, r in zip(pairs, results, strict=True) if r != Verification(float(p["right"]))
    ] == []
    assert len(pairs) > 150


def test_a_box_may_be_optional(verifier: MathVerifier) -> None:
    loose = MathVerifier(timeout=20.0, require_box=False, workers=1)
    texts = [
        "3",
        "We get 2, then 3.",
        "The final answer is $\\frac{6}{2}$.",
        r"3, or \boxed{4}",
        r"3, and \boxed{",
        "no",
        "",
        "3 " + "so " * 1000 + "2",
    ]
    rewards = [verdict.reward for verdict in loose(["3"] * len(texts), texts)]
    loose.close()
    assert rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


# Rationals with few digits, so that their decimals end.
RATIONALS = st.builds(Fraction, st.integers(-999, 999), st.sampled_from([1, 2, 4, 5, 8, 20, 25]))


def dressed(value: Fraction) -> list[str]:
    above, below = value.numerator, value.denominator
    sign, whole = "-" if value < 0 else "", abs(above) // below
    rest = abs(above) % below
    forms = [
        f"{above}/{below}",
        rf"\frac{{{above}}}{{{below}}}",
        rf"{sign}\dfrac{{{abs(above)}}}{{{below}}}",
        str(above / below),
        rf"\left({above / below}\right)",
        rf"{above / below} \text{{ cm}}",
        rf"x = \frac{{{3 * above}}}{{{3 * below}}}",
        f"{1000 * above / below:.6e}".replace("e", r" \times 10^{") + r"} / 1000",
    ]
    if whole and rest:
        forms.append(rf"{sign}{whole}\frac{{{rest}}}{{{below}}}")
    return forms


@settings(max_examples=40, deadline=None)
@given(RATIONALS, RATIONALS, st.data())
def test_forms_of_a_number_are_equal_and_numbers_are_not(
    one: Fraction, other: Fraction, data: st.DataObject
) -> None:
    gold = data.draw(st.sampled_from(dressed(one)[:4]))
    answer = data.draw(st.sampled_from(dressed(one)))
    assert equal(gold, answer), (gold, answer)
    wrong = data.draw(st.sampled_from(dressed(other)))
    assert equal(gold, wrong) == (one == other), (gold, wrong)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(RIGHT + WRONG),
    st.text(alphabet="abc .,$\\{}()12=\n", max_size=40),
    st.text(alphabet="abc .,$()12=\n", max_size=40),
)
def test_text_around_a_box_does_not_matter(
    verifier: MathVerifier, pair: tuple[str, str], before: str, after: str
) -> None:
    gold, answer = pair
    boxed = rf"\boxed{{{answer}}}"
    alone, within = verifier([gold] * 2, [boxed, f"{before} {boxed}{after}"])
    assert alone == within == Verification(float(pair in RIGHT))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5, unique=True), st.randoms())
def test_lists_are_sets_and_points_are_not(numbers: list[int], random: Any) -> None:
    shuffled = random.sample(numbers, len(numbers))
    one, other = (", ".join(map(str, part)) for part in (numbers, shuffled))
    assert equal(one, other) and equal(rf"\{{{one}\}}", other)
    assert not equal(one, other + ", 51")
    if numbers != shuffled:
        assert not equal(f"({one})", f"({other})")
    assert equal(f"({one})", f"({one})")


def test_tidy_and_words() -> None:
    assert tidy(r" 1\,234\,567. ") == "1234567"
    assert tidy(r"2\bar{3}") == r"2\bar{3}"
    assert tidy(r"1.2\overline{34}") == r"\frac{611}{495}"
    assert tidy("2e") == "2e"
    assert tidy("-2 3/4") == r"-2\frac{3}{4}"
    assert words(r"\text{No  Solution}") == words("no solution") == "no solution"
    assert words("abc") == words("x + y") == words(r"\text{7 apples}") == words("") == ""


def test_what_sympy_cannot_do_is_no_verdict() -> None:
    assert judge({"gold": "3", "answer": "3", "boxed": True}) == {"reward": 1.0}


HOSTILE = [
    "9^{9^{9^9}}", "(10^{9})!", r"\binom{10^{12}}{10^{6}}", r"\sum_{n=1}^{10^{12}} \frac{1}{n^2}",
    "(x+y+z+w)^{400}", "1e999999999", "(" * 400 + "1" + ")" * 400, "{" * 400 + "1" + "}" * 400,
    r"\sqrt{" * 50 + "2" + "}" * 50, r"\frac{1}{" * 90 + "1" + "}" * 90, "9" * 999,
    r"2^{99999999999}", ",".join("1" * 400), "\0", "\ud800", r"\ldots", r"\pm" * 300,
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{99999999}", r"\int_0^1 x^{x^{x^x}} dx",
]  # fmt: skip


@pytest.mark.slow
def test_hostile_answers_end_in_time() -> None:
    before = processes()
    verifier = MathVerifier(timeout=0.5, workers=2)
    golds = ["17"] * len(HOSTILE) + HOSTILE
    found = verifier(
        golds, [rf"\boxed{{{answer}}}" for answer in HOSTILE] + [r"\boxed{x+1}"] * len(HOSTILE)
    )
    assert {verdict.reward for verdict in found} == {0.0}
    assert {v.failure for v in found} <= {"", "timeout", "memory", "nested too deeply", "too long"}
    assert found[0] == found[1] == found[len(HOSTILE)] == TIMEOUT
    assert verifier(["1"], [r"\boxed{1}"]) == [RIGHT_VERDICT]
    verifier.close()
    assert none_left(before)


def test_a_timeout_is_no_wrong_answer_and_costs_the_others_nothing(hasty: MathVerifier) -> None:
    texts = [r"\boxed{1}", ENDLESS, r"\boxed{2}", r"\boxed{1.0}"]
    assert hasty(["1"] * 4, texts) == [RIGHT_VERDICT, TIMEOUT, WRONG_VERDICT, RIGHT_VERDICT]


def test_long_answers_never_reach_a_worker(hasty: MathVerifier) -> None:
    long = Verification(0.0, "too long")
    assert hasty(["1"], [rf"\boxed{{{'1' * 10**6}}}"]) == [long]
    assert hasty(["1" * (LONGEST + 1)], [r"\boxed{1}"]) == [long]
    assert hasty(["1"], ["9" * 10**6]) == [WRONG_VERDICT]


def test_memory_is_limited(hasty: MathVerifier) -> None:
    limits = Path(f"/proc/{server_of(hasty)}/limits")
    if not limits.exists():
        pytest.skip("only Linux shows the limits of a process")
    (line,) = [line for line in limits.read_text().splitlines() if "address space" in line]
    assert line.split()[3] == str(hasty.memory << 20)


def test_a_worker_that_has_grown_is_replaced() -> None:
    worker = Worker(timeout=20.0, memory=96 << 20)  # sympy fills more than half of it
    for _ in range(2):
        assert worker.judge(Pair("1", "1", True)) == RIGHT_VERDICT
        assert worker.server == 0
    worker.close()


def test_a_large_parent_does_not_make_its_workers_large() -> None:
    # Linux counts a child's largest size from its parent's on.
    code = (
        "from llm.verifiers.maths import Pair\n"
        "from llm.verifiers.workers import Worker\n"
        "large = b'x' * (400 << 20)\n"
        "worker = Worker(timeout=60.0, memory=600 << 20)\n"
        "assert worker.judge(Pair('1', '1', True)).reward == 1.0\n"
        "assert worker.server\n"
        "worker.close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("victim", [server_of, supervisor_of])
def test_a_worker_that_was_killed_is_started_again(
    hasty: MathVerifier, victim: Callable[[MathVerifier], int]
) -> None:
    first = victim(hasty)
    os.kill(first, signal.SIGKILL)
    if victim is supervisor_of:
        process = hasty._pool[0].process
        assert process is not None and process.wait(10) == -signal.SIGKILL
    assert hasty(["1", "2"], [r"\boxed{1}", r"\boxed{2}"]) == [RIGHT_VERDICT] * 2
    assert victim(hasty) != first


def test_a_worker_killed_at_work_gets_the_pair_once_more(hasty: MathVerifier) -> None:
    threading.Timer(0.5, os.kill, (server_of(hasty), signal.SIGKILL)).start()
    assert hasty(["1"], [ENDLESS]) == [TIMEOUT]
    assert hasty(["1"], [r"\boxed{1}"]) == [RIGHT_VERDICT]


def test_a_timeout_starts_no_process_anew(hasty: MathVerifier) -> None:
    hasty._pool[0].timeout = 0.3
    before = supervisor_of(hasty), server_of(hasty)
    assert hasty(["1", "1"], [ENDLESS, r"\boxed{1}"]) == [TIMEOUT, RIGHT_VERDICT]
    assert supervisor_of(hasty) == before[0]
    assert server_of(hasty) != before[1]


def test_a_pair_that_kills_every_worker_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    killer = "import os\nprint('{\"ready\": 1}', flush=True)\ninput()\nos.abort()"
    monkeypatch.setattr("llm.verifiers.workers._WORKER", killer)
    worker = Worker(timeout=20.0, memory=1 << 30)
    assert worker.judge(Pair("1", "1", True)) == Verification(0.0, "crash")
    assert worker.process is None


def test_a_worker_that_cannot_start_again_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    once = (
        "print('{\"ready\": 1}', flush=True)\ninput()\n"
        'print(\'{"id": 1, "reward": 1, "last": true}\')'
    )
    monkeypatch.setattr("llm.verifiers.workers._WORKER", once)
    worker = Worker(timeout=20.0, memory=1 << 30)
    assert worker.judge(Pair("1", "1", True)) == RIGHT_VERDICT
    monkeypatch.setattr("llm.verifiers.workers._WORKER", "raise MemoryError")
    assert worker.judge(Pair("1", "1", True)) == Verification(0.0, "crash")
    worker.close()


def test_ctrl_c_leaves_no_stale_reply(hasty: MathVerifier) -> None:
    hasty._pool[0].timeout = 60.0
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hasty(["1"] * 3, [ENDLESS, r"\boxed{1}", r"\boxed{2}"])
    assert time.monotonic() - start < 25
    assert hasty(["1", "2"], [r"\boxed{2}", r"\boxed{2}"]) == [WRONG_VERDICT, RIGHT_VERDICT]


def test_threads_may_call(hasty: MathVerifier) -> None:
    found: list[list[Verification]] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(hasty(["1", "2"], [r"\boxed{1}", r"\boxed{3}"]))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[RIGHT_VERDICT, WRONG_VERDICT]] * 3


def in_python(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n{script}"],
        capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def test_the_users_folder_and_environment_do_not_matter(tmp_path: Path) -> None:
    for name in ("sympy", "json", "math_verify", "llm", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = (
        "import os\nfrom llm.verifiers import make_verifier\n"
        f"os.chdir({str(tmp_path)!r})\nos.environ['PYTHONPATH'] = {str(tmp_path)!r}\n"
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n"
        r"print(make_verifier('math')(['1'], ['\\boxed{1}']))"
    )
    ran = in_python(script)
    assert (ran.stdout, ran.stderr) == (f"{[RIGHT_VERDICT]}\n", "")


def test_a_fork_has_its_own_workers() -> None:
    script = r"""
import os
from llm.verifiers import make_verifier
verifier = make_verifier('math', workers=1)
def ask(n): return verifier([str(n)] * 2, [r'\boxed{%d}' % n, r'\boxed{x}'])
ask(1)
pid = verifier._pool[0].server
child = os.fork()
if child == 0:
    right = ask(2)[0].reward == 1 and verifier._pool[0].server != pid
    verifier.close()
    sys.exit(0 if right else 1)  # with finalisers: they must not end the parent's worker
print(os.waitpid(child, 0)[1], ask(3)[0].reward, verifier._pool[0].server == pid)
"""
    before = processes()
    ran = in_python(script)
    assert (ran.stdout, ran.stderr) == ("0 1.0 True\n", "")
    assert none_left(before)


@pytest.mark.parametrize("answer", ["1", "9^{9^{9^9}}"], ids=["idle", "busy"])
def test_workers_end_with_their_parent(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = processes()
    script = (
        "from llm.verifiers import make_verifier\nimport time\n"
        "verifier = make_verifier('math', timeout=1.0, workers=1)\n"
        r"verifier(['1'], [r'\boxed{1}'])"
        "\nprint('ready', flush=True)\n"
        rf"verifier(['1'], [r'\boxed{{{answer}}}'])"
        "\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        assert not none_left(before, 0.0)
        parent.kill()
    assert none_left(before)


def test_options_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^math: timeout=0, workers=2"):
        make_verifier("math", timeout=0)
    with pytest.raises(ValueError, match=r"^math: memory=100: MiB for sympy"):
        make_verifier("math", memory=100)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^math: math-verify is not installed; pip install"):
        make_verifier("math")


@pytest.mark.parametrize(
    "answer", [None, True, float("nan"), ["1"], "", "  ", r"\boxed{3", "$ $", "1" * 2000]
)
def test_answers_are_checked(verifier: MathVerifier, answer: Any) -> None:
    with pytest.raises(ValueError, match=r"^math: (the|an) answer"):
        verifier.check_answer(answer)


def test_a_worker_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.verifiers.workers._WORKER", "raise ImportError('no sympy here')")
    with pytest.raises(RuntimeError, match=r"^math: a worker did not start: ImportError: no sympy"):
        MathVerifier()(["1"], [r"\boxed{1}"])


def test_nothing_heavy_is_loaded() -> None:
    script = (
        "from llm.verifiers import VERIFIERS, make_verifier\nmake_verifier('math')\n"
        "heavy = ('torch', 'transformers', 'sympy', 'math_verify', 'numpy')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert in_python(script).stdout == "[]\n"
