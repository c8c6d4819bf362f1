"""The chain-reasoning task, against enumeration and closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from envs.reasoning import ChainTask, Problem
from envs.tabular import TabularMDP

TASK = ChainTask(10, ("+4", "*3", "-2", "*5"))
PROBLEM = Problem(3, ("+4", "*3", "-2"))
TINY = ChainTask(4, ("+1", "*2"))
TINY_PROBLEM = Problem(1, ("+1", "*2", "+1"))

#: Problems of TASK with up to 6 steps, and any values for their steps.
problems = st.builds(
    Problem, st.integers(0, 9), st.lists(st.sampled_from(TASK.operations), min_size=1, max_size=6)
)


#: Pieces of texts that are nearly solutions.
PIECES = ["\n", "7\n", "1\n", "3", "\\boxed{", "}", "\\boxed{9}", "\\boxed{5}", " ", "٣", "0"]


def walk(task: ChainTask, problem: Problem, values: Any, verify: str) -> tuple[bool, float]:
    """Follow `values` through the MDP: whether every step was clean, and the final reward."""
    mdp = task.mdp(problem, verify)
    state, clean, paid = task.state_index(0, problem.start), True, 0.0
    assert mdp.start[state] == 1
    for k, value in enumerate(values, 1):
        paid += mdp.rewards[state, value]
        (following,), _ = mdp.successors(state, int(value))
        if k == problem.length:
            assert following == mdp.num_states - 1
            break
        clean = clean and following == task.state_index(k, value, clean=True)
        assert following == task.state_index(k, value, clean)
        state = int(following)
    return clean, paid


def induction(mdp: TabularMDP, policy: NDArray[np.float64]) -> float:
    """J of a policy (S, A) by backward induction."""
    V = np.zeros(mdp.num_states)
    for _ in range(mdp.horizon or 0):
        V = (policy * (mdp.rewards + (mdp.flat @ V).reshape(mdp.rewards.shape))).sum(axis=1)
    return float(mdp.start @ V)


def enumeration(
    task: ChainTask, problem: Problem, policy: NDArray[np.float64], verify: str
) -> float:
    """J by summing over all Mⁿ solutions, verified as text."""
    total = 0.0
    for values in itertools.product(range(task.modulus), repeat=problem.length):
        p, before, clean = 1.0, problem.start, True
        for k, value in enumerate(values):
            p *= policy[task.state_index(k, before, clean), value]
            clean = clean and value == task.apply(problem.operations[k], before)
            before = value
        if p > 0 and task.verify(problem, task.render_steps(problem, values), verify):
            total += p
    return total


# ---------------------------------------------------------------------- arithmetic


def test_operations_by_hand() -> None:
    assert [TASK.apply(o, 3) for o in ("+4", "-5", "*4", "+0", "-13")] == [7, 8, 2, 3, 0]
    assert TASK.solution(PROBLEM) == [7, 1, 9]
    assert TASK.results[1].tolist() == [0, 3, 6, 9, 2, 5, 8, 1, 4, 7]


def test_all_problems_once() -> None:
    listed = list(TINY.problems(3))
    assert len(listed) == len(set(listed)) == 4 * 2**3
    assert len({TINY.render(problem) for problem in listed}) == len(listed)


def test_samples_are_uniform_problems() -> None:
    rng = np.random.default_rng(0)
    drawn = [TINY.sample(rng, 2) for _ in range(1600)]
    counts = {problem: drawn.count(problem) for problem in TINY.problems(2)}
    assert sum(counts.values()) == 1600
    assert 60 < min(counts.values()) <= max(counts.values()) < 145  # 100 expected, σ 9.7
    again = np.random.default_rng(0)
    assert drawn[:5] == [TINY.sample(again, 2) for _ in range(5)]


# ---------------------------------------------------------------------- the noisy reasoner


@pytest.mark.parametrize("modulus", [2, 3, 10])
def test_wrong_values_are_wrong_and_fixed(modulus: int) -> None:
    task = ChainTask(modulus, ("+1", "*3", "-2"))
    wrong = task.wrong_values(5)
    assert wrong.shape == task.results.shape
    assert (wrong != task.results).all()
    assert ((wrong >= 0) & (wrong < modulus)).all()
    np.testing.assert_array_equal(wrong, task.wrong_values(5))


def test_wrong_values_cover_all_alternatives() -> None:
    drawn = np.array([TINY.wrong_values(seed) for seed in range(200)])
    for fact in np.ndindex(TINY.results.shape):
        others = set(range(4)) - {int(TINY.results[fact])}
        assert set(drawn[(slice(None), *fact)].tolist()) == others


def test_rates_by_step_and_by_fact() -> None:
    wrong = TASK.wrong_values(2)
    by_step = TASK.noisy_policy(PROBLEM, [0.1, 0.2, 0.3], seed=2)
    by_fact_rates = np.linspace(0, 1, 40).reshape(4, 10)
    by_fact = TASK.noisy_policy(PROBLEM, by_fact_rates, seed=2)
    for policy in (by_step, by_fact):
        np.testing.assert_allclose(policy.sum(axis=1), 1.0, atol=1e-15)
    for k, (o, rate) in enumerate([(0, 0.1), (1, 0.2), (2, 0.3)]):
        for v, clean in itertools.product(range(10), (True, False)):
            row = TASK.state_index(k, v, clean)
            for policy, error in ((by_step, rate), (by_fact, by_fact_rates[o, v])):
                expected = np.zeros(10)
                expected[TASK.results[o, v]] = 1 - error
                expected[wrong[o, v]] = error
                np.testing.assert_allclose(policy[row], expected, atol=1e-15)


@pytest.mark.parametrize("q", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("length", [1, 4, 8])
def test_success_is_q_to_the_n(q: float, length: int) -> None:
    rng = np.random.default_rng(length)
    for _ in range(3):
        problem = TASK.sample(rng, length)
        policy = TASK.noisy_policy(problem, 1 - q, seed=1)
        steps = induction(TASK.mdp(problem), policy)
        assert steps == pytest.approx(q**length, rel=1e-12)
        assert induction(TASK.mdp(problem, "answer"), policy) >= steps - 1e-15


def test_success_is_the_product_of_the_rates() -> None:
    rates = np.array([0.1, 0.6, 0.25])
    policy = TASK.noisy_policy(PROBLEM, rates)
    assert induction(TASK.mdp(PROBLEM), policy) == pytest.approx(np.prod(1 - rates), rel=1e-12)


@pytest.mark.parametrize("verify", ["steps", "answer"])
def test_value_by_enumeration(verify: str) -> None:
    """Values of noisy and of random policies agree, computed in three ways."""
    mdp = TINY.mdp(TINY_PROBLEM, verify)
    rng = np.random.default_rng(3)
    random = rng.dirichlet(np.ones(4), size=mdp.num_states)
    for policy in (TINY.noisy_policy(TINY_PROBLEM, 0.3), random):
        J = enumeration(TINY, TINY_PROBLEM, policy, verify)
        assert 0.01 < J < 0.99
        assert induction(mdp, policy) == pytest.approx(J, rel=1e-12)


def test_verify_answer__passes_cancelling_errors() -> None:
    """*0 cancels every error: a wrong first step costs nothing if only the answer counts."""
    task, problem = ChainTask(5, ("+1", "*0")), Problem(2, ("+1", "*0"))
    policy = task.noisy_policy(problem, 0.5)
    assert induction(task.mdp(problem, "steps"), policy) == pytest.approx(0.25)
    assert induction(task.mdp(problem, "answer"), policy) == pytest.approx(0.5)


# ---------------------------------------------------------------------- the MDP


@pytest.mark.parametrize("verify", ["steps", "answer"])
def test_shape_of_the_mdp(verify: str) -> None:
    mdp = TASK.mdp(PROBLEM, verify)
    assert (mdp.num_states, mdp.num_actions, mdp.horizon) == (2 * 3 * 10 + 1, 10, 3)
    assert mdp.num_states == TASK.num_states(PROBLEM)
    assert np.flatnonzero(mdp.terminal).tolist() == [60]
    assert mdp.name == f"chain reasoning 3 +4 *3 -2 ({verify})"
    table = np.arange(60).reshape(3, 2, 10)
    indices = [
        TASK.state_index(k, v, clean)
        for k, clean, v in itertools.product(range(3), (True, False), range(10))
    ]
    assert table.ravel().tolist() == indices


def test_checker_text_and_mdp_agree() -> None:
    """First error, verifier, flag and reward agree on all 4³ solutions."""
    outcomes = set()
    for values in itertools.product(range(4), repeat=3):
        text = TINY.render_steps(TINY_PROBLEM, values)
        first = TINY.first_error(TINY_PROBLEM, values)
        for verify in ("steps", "answer"):
            clean, paid = walk(TINY, TINY_PROBLEM, values, verify)
            assert clean == (first is None or first == 3)  # the flag stops before the last step
            assert paid == TINY.verify(TINY_PROBLEM, text, verify)
            outcomes.add((verify, paid, first is None))
        assert TINY.verify(TINY_PROBLEM, text) == (first is None)
    assert len(outcomes) == 5  # every combination but a wrong answer after right steps


# ---------------------------------------------------------------------- text


def test_text_by_hand() -> None:
    assert TASK.render(PROBLEM) == "3 +4 *3 -2\n"
    assert TASK.render_steps(PROBLEM, [7, 1, 9]) == "7\n1\n\\boxed{9}"
    assert TASK.render_steps(PROBLEM, [7, 1]) == "7\n1\n"
    assert TASK.verify(PROBLEM, "7\n1\n\\boxed{9}")


@settings(deadline=None, max_examples=200)
@given(problem=problems, data=st.data())
def test_text_round_trip(problem: Problem, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 9), max_size=problem.length))
    text = TASK.render_steps(problem, values)
    assert TASK.parse_steps(problem, text) == values
    whole = values + TASK.solution(problem)[len(values) :]
    assert TASK.render_steps(problem, whole).startswith(text)


@settings(deadline=None, max_examples=200)
@given(problem=problems, text=st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_any_text_is_checked(problem: Problem, text: str) -> None:
    """No text raises an error; a text passes exactly if it has no first error."""
    values = TASK.parse_steps(problem, text)
    assert len(values) <= problem.length
    first = TASK.first_error(problem, values)
    assert TASK.verify(problem, text) == (first is None)
    assert first is None or 1 <= first <= problem.length
    if None not in values:
        written = TASK.render_steps(problem, [v for v in values if v is not None])
        assert text.startswith(written)


@settings(deadline=None, max_examples=100)
@given(problem=problems, data=st.data())
def test_the_first_planted_error_is_found(problem: Problem, data: st.DataObject) -> None:
    """Errors may be followed by steps that are right given them."""
    k = data.draw(st.integers(1, problem.length))
    values = TASK.solution(problem)[: k - 1]
    before = values[-1] if values else problem.start
    values.append(
        (TASK.apply(problem.operations[k - 1], before) + data.draw(st.integers(1, 9))) % 10
    )
    for operation in problem.operations[k:]:
        values.append(TASK.apply(operation, values[-1]))
    assert TASK.first_error(problem, values) == k
    assert TASK.first_error(problem, values[: k - 1]) == k  # missing
    assert TASK.first_error(problem, [*values[: k - 1], None, *values[k:]]) == k
    right = TASK.solution(problem)
    assert TASK.first_error(problem, right) is None
    assert TASK.first_error(problem, [*right, 0]) == problem.length + 1


@pytest.mark.parametrize(
    ("text", "values", "first"),
    [
        ("", [], 1),
        ("7\n1\n\\boxed{9}", [7, 1, 9], None),
        ("7\n1\n\\boxed{9}\n", [7, 1, 9], None),
        ("7\n1\n\\boxed{9}\n5\n", [7, 1, 9], None),  # text after the answer is ignored
        ("7\n1\n9\n", [7, 1, None], 3),  # no answer
        ("7\n1\n9", [7, 1, None], 3),
        ("7\n1\n9\n\\boxed{9}", [7, 1, None], 3),
        ("7\n1\n\\boxed{9", [7, 1, None], 3),
        ("7\n1\n\\boxed{9} ", [7, 1, None], 3),
        ("7\n\\boxed{1}", [7, None], 2),  # answered too early
        ("7\n1", [7, None], 2),  # cut within a step
        ("7\n1\n", [7, 1], 3),
        ("07\n1\n\\boxed{9}", [None, 1, 9], 1),
        ("٧\n1\n\\boxed{9}", [None, 1, 9], 1),
        ("7\n\n1\n\\boxed{9}", [7, None, None], 2),
        ("7\n10\n\\boxed{9}", [7, None, 9], 2),
        ("7\n2\n\\boxed{0}", [7, 2, 0], 2),
        ("9" * 5000, [None], 1),
    ],
)
def test_parse_by_hand(text: str, values: list[int | None], first: int | None) -> None:
    assert TASK.parse_steps(PROBLEM, text) == values
    assert TASK.first_error(PROBLEM, values) == first
    assert TASK.verify(PROBLEM, text) == (first is None)


def test_an_answer_needs_all_steps() -> None:
    assert TASK.verify(PROBLEM, "0\n0\n\\boxed{9}", "answer")
    assert not TASK.verify(PROBLEM, "0\n0\n\\boxed{9}", "steps")
    assert not TASK.verify(PROBLEM, "0\nx\n\\boxed{9}", "answer")
    assert not TASK.verify(PROBLEM, "\\boxed{9}", "answer")
    assert not TASK.verify(PROBLEM, "7\n9\n", "answer")
    assert not TASK.verify(PROBLEM, "7\n1\n\\boxed{8}", "answer")


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("modulus", [1, 0, -3, 2.5, "10"])
def test_bad_modulus(modulus: Any) -> None:
    with pytest.raises(ValueError, match=r"modulus: .* is not a whole number ≥ 2"):
        ChainTask(modulus)


@pytest.mark.parametrize("operation", ["3", "+", "/2", "+ 3", "+03", "+3\n", "", "+٣", 3])
def test_bad_operation(operation: Any) -> None:
    with pytest.raises(ValueError, match=r"operations: .* is not a sign"):
        ChainTask(10, ("+1", operation))


def test_bad_operation_lists() -> None:
    with pytest.raises(ValueError, match="a task needs at least one"):
        ChainTask(10, ())
    with pytest.raises(ValueError, match="listed twice"):
        ChainTask(10, ("+1", "+1"))
    with pytest.raises(ValueError, match="a problem needs at least one"):
        Problem(0, ())
    with pytest.raises(ValueError, match="'\\*7' is not one of the task's"):
        TASK.mdp(Problem(0, ("*7",)))


def test_bad_start() -> None:
    with pytest.raises(ValueError, match="start: -1 is not a whole number ≥ 0"):
        Problem(-1, ("+4",))
    with pytest.raises(ValueError, match="start: 10 is not in 0 … 9"):
        TASK.solution(Problem(10, ("+4",)))


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_bad_error_rate(rate: float) -> None:
    with pytest.raises(ValueError, match=r"error_rate: .* is not in \[0, 1\]"):
        TASK.noisy_policy(PROBLEM, rate)
    with pytest.raises(ValueError, match=r"error_rate: .* is not in \[0, 1\]"):
        TASK.noisy_policy(PROBLEM, [0.1, rate, 0.1])


def test_bad_error_rate_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), expected one of .* \(3,\) per step"):
        TASK.noisy_policy(PROBLEM, [0.1, 0.2])


def test_bad_verify() -> None:
    for call in (lambda: TASK.mdp(PROBLEM, "luck"), lambda: TASK.verify(PROBLEM, "", "luck")):
        with pytest.raises(ValueError, match="verify: 'luck' is not one of 'steps', 'answer'"):
            call()


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="values: 4 for a problem of 3 steps"):
        TASK.render_steps(PROBLEM, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="values: 10 is not in 0 … 9"):
        TASK.render_steps(PROBLEM, [10])
