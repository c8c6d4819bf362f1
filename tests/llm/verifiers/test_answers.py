"""Verifiers of short answers: boxes, letters, yes or no, texts and numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.verifiers import Verification, make_verifier
from llm.verifiers.answers import Choice, Exact, YesNo
from llm.verifiers.boxed import last_boxed
from llm.verifiers.numeric import Numeric, number

BOXES = [
    (r"so \boxed{3}", "3"),
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed{ \left\{ x \right. }", r"\left\{ x \right."),
    (r"\fbox{7}", "7"),
    (r"\boxed {7}", "7"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{3} no, \boxed{4", None),
    (r"I put it in a \boxed.", None),
    ("none", None),
    (r"\boxed{}", ""),
    ("\\boxed{a\nb}", "a\nb"),
]


@pytest.mark.parametrize(("text", "content"), BOXES)
def test_last_boxed__last_balanced_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


# The stated letter; "" for two, None for none.
CHOICES: list[tuple[str, str | None]] = [
    ("Answer: (B)", "B"),
    ("Answer: B", "B"),
    ("answer: B.", "B"),
    ("**Answer: B**", "B"),
    ("**Answer:** B", "B"),
    ("Answer: **B**", "B"),
    ("Answer:\n\nB", "B"),
    ("## Final Answer\n\n(C)", "C"),
    ("The answer is D.", "D"),
    ("The correct answer is therefore (D) Paris.", "D"),
    ("the answer is $\\boxed{A}$", "A"),
    (r"\boxed{B}", "B"),
    (r"\boxed{\text{(B)}}", "B"),
    (r"\boxed{\textbf{B}}", "B"),
    (r"\boxed{B. Paris}", "B"),
    ("The correct option is C", "C"),
    ("so the right choice: E", "E"),
    ("<think>the answer is A</think>\n<answer>B</answer>", "B"),
    ("<answer>\n(B) Paris\n</answer>\nC", "B"),
    ("<answer>B or C</answer>", ""),
    ("**C**", "C"),
    ("I think **C) Rome** fits", "C"),
    ("B", "B"),
    ("(B)", "B"),
    ("Let us see.\nB) Paris", "B"),
    ("hmm\nC.", "C"),
    (r"The answer is \(B\).", "B"),
    (r"The answer is \[\boxed{B}\]", "B"),
    ('The correct answer is "B".', "B"),
    ("The answer is `B`.", "B"),
    ("Therefore the answer is ‘B’.", "B"),
    ("The answer is 'B'", "B"),
    ("Answer: “B. Paris”", "B"),
    ("The best choice is: D", "D"),
    ("Answer choice: D", "D"),
    ("Option: C", "C"),
    # a remark on an option does not count beside a statement
    ("Answer: A\n\nOption: B is wrong", "A"),
    ("\\boxed{A}\n\nExplanation: choice: B fails", "A"),
    ("Option: B is wrong, **C** it is", "C"),
    ("Option: B is wrong\n\nC", "C"),
    ("Answer: A. No, the correct option is B", "B"),
    # the last statement counts, and explicit ones before others
    ("The answer is A. Wait. The answer is C.", "C"),
    (r"Answer: A ... \boxed{B}", "B"),
    ("The answer is B. **A** is wrong, since it is cold.", "B"),
    ("**A** is wrong, **B** it is", "B"),
    ("**B** it is, not **A**", "B"),
    ("The answer is not **A**", None),
    ("The answer is A because B is wrong.", "A"),
    # two at once
    ("The answer is A or B", ""),
    ("Answer: A, B", ""),
    (r"\boxed{A and C}", ""),
    (r"\boxed{A/C}", ""),
    ('The answer is "A" or "C"', ""),
    (r"The answer is \(A\), and \(C\)", ""),
    ("The answer is B or A depending on it", ""),
    ("The answer is A, I think", "A"),
    ("The answer is B. No: the answer is C or D", ""),
    # a box that is never closed
    (r"\boxed{B", None),
    (r"\boxed{\text{B}", None),
    (r"The answer is \boxed{B", None),
    (r"\boxed{A} no, \boxed{B", None),
    # no statement
    ("The answer is not B", None),
    ("The answer isn't B", None),
    ("The answer is a large number", None),
    ("The answer is A large number", None),
    ("The answer is I think unclear", None),
    ("The answer: Because", None),
    ("Option B is wrong", None),
    ("A man walks.", None),
    ("I do not know", None),
    ("Answer: Z", None),
    ("Answer: B2", None),
    ("The answer is A's brother", None),
    ("The answer is B-flat", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_choice__stated_letter(text: str, letter: str | None) -> None:
    verifier = Choice()
    assert verifier.stated(text) == letter
    for gold in "ABCDE":
        assert verifier([gold], [text]) == [Verification(float(gold == letter))]


def test_choice__restricted_letters() -> None:
    four = Choice(letters="ABCD")
    assert four([1, "(B)", "D"], ["B", "Answer: B", "Answer: E"]) == [
        Verification(1.0),
        Verification(1.0),
        Verification(0.0),
    ]
    assert four(["A"], ["The answer is A, E is wrong"]) == [Verification(1.0)]
    for answer in ("E", 4, -1, "AB", "", None, True, 1.0):
        with pytest.raises(ValueError, match=r"^choice: the answer .* is none of the letters ABCD"):
            four.check_answer(answer)
    for letters in ("", "A", "abc", "AAB", "A,B"):
        with pytest.raises(ValueError, match=r"^choice: letters="):
            Choice(letters)


YES_NO: list[tuple[str, bool | None]] = [
    ("Yes", True),
    ("no.", False),
    ("Yes, because it is.", True),
    ("No, it is not.\nThat is so because of yes-men.", False),
    ("The answer is yes.", True),
    ("<think>yes</think><answer> no </answer>", False),
    ("Answer: **No**", False),
    ('Therefore, the answer is "no".', False),
    ("The answer is ‘yes’.", True),
    ("The answer is \\(yes\\)", True),
    ('The answer is "yes" or "no"', None),
    ("**Answer:** True", True),
    (r"\boxed{\text{no}}", False),
    (r"\boxed{YES}", True),
    ("So **false**.", False),
    ("**No**: it isn't **true**.", False),
    ("Yes? Let me think. The answer is no.", False),
    ("The answer is no. Wait, the answer is yes", True),
    ("thinking\nNo", False),
    ("The answer is yes or no", None),
    (r"\boxed{yes/no}", None),
    (r"\boxed{yes", None),
    ("The answer is not yes", None),
    ("Nobody knows", None),
    ("Yesterday it rained.", None),
    ("There is no way", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "meant"), YES_NO)
def test_yes_no__stated_word(text: str, meant: bool | None) -> None:
    verifier = YesNo()
    golds = [True, "Yes", "true", False, "no", "FALSE"]
    rewards = [result.reward for result in verifier(golds, [text] * 6)]
    assert rewards == [float(meant is True)] * 3 + [float(meant is False)] * 3
    for gold in golds:
        verifier.check_answer(gold)


@pytest.mark.parametrize("answer", ["maybe", "", None, 1, 0])
def test_yes_no__invalid_answers_are_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"^yes_no: the answer"):
        YesNo().check_answer(answer)


EXACT = [
    ("Paris", "Paris", True, True),
    ("Paris", " paris.\n", True, False),
    ("New York", "new   york", True, False),
    ("Paris", r"It is \boxed{\text{Paris}}!", True, False),
    ("Paris", r"It is \boxed{Paris}!", True, True),
    ("Paris", "So the answer is Paris.", True, False),
    ("Paris", "Answer: Rome\nAnswer: **Paris**", True, False),
    ("Paris", "Answer: Paris\nAnswer: Rome", False, False),
    ("Paris", "The answer is Rome. Wait, the answer is Paris", True, True),
    ("Paris", "<think>Answer: Rome</think><answer>Paris</answer> it is", True, True),
    ("Paris", "<answer>\nRome\n</answer>", False, False),
    ("Paris", "Paris or Rome", False, False),
    ("Paris", "", False, False),
    ("3.5", "35", False, False),
    ("U.S.", "u.s.", True, False),
]


@pytest.mark.parametrize(("gold", "text", "loosely", "strictly"), EXACT)
def test_exact__with_and_without_normalisation(
    gold: str, text: str, loosely: bool, strictly: bool
) -> None:
    assert Exact()([gold], [text]) == [Verification(float(loosely))]
    assert Exact(normalise=False)([gold], [text]) == [Verification(float(strictly))]


def test_exact__invalid_answers_are_refused() -> None:
    Exact().check_answer(3)
    for answer in ("", " . ", None, 1.5, {"a": 1}, [], ["a", ""], ["a", None], [["a"]]):
        with pytest.raises(ValueError, match=r"^exact: the answer"):
            Exact().check_answer(answer)
    with pytest.raises(ValueError, match=r"^exact: the answer True is a bool, not text"):
        Exact(normalise=False).check_answer(True)


@pytest.mark.parametrize(
    ("answer", "stated", "right"),
    [
        (True, "true", True),
        (True, "True.", True),
        (True, "yes", False),
        (False, "FALSE", True),
        (False, "true", False),
        (["Paris", "City of Light", 7], "city of light", True),
        (["Paris", "City of Light", 7], "7", True),
        (["Paris", "City of Light", 7], "Rome", False),
        (["Paris", "City of Light", 7], "Paris, City of Light", False),
        (["Paris"], "Paris", True),
    ],
)
def test_exact__booleans_and_lists_of_accepted_answers(
    answer: Any, stated: str, right: bool
) -> None:
    Exact().check_answer(answer)
    assert Exact()([answer], [rf"\boxed{{{stated}}}"]) == [Verification(float(right))]


NUMERIC: list[tuple[float | str, str, bool]] = [
    ("72", "so\n#### 72", True),
    ("He has 8.\n#### 1,234", "#### 1234", True),
    (1234, "#### $1,234.00", True),
    (18, r"\boxed{18}", True),
    (18, r"\boxed{\$18}", True),
    (18, r"\boxed{18 \text{ dollars}}", True),
    (18, r"\boxed{x = 18}", True),
    (1234567, r"\boxed{1{,}234{,}567}", True),
    (1234567, r"\boxed{1\,234\,567}", True),
    (0.75, r"\boxed{\frac{3}{4}}", True),
    (-0.75, r"\boxed{-\dfrac34}", True),
    (0.75, "Answer: 3/4", True),
    (1200, "The answer is 1.2e3.", True),
    (1200, r"\boxed{1.2 \times 10^3}", True),
    (10, "The answer is 10%.", True),
    (-5, "The answer is -5", True),
    (-5, "the answer is −5 °C", True),
    (5, "**Answer:** about 5 km/h", True),
    (5, "the answer is 5. I checked it 3 times.", True),
    (7, "the answer is 3 + 4 = 7", True),
    (7, "3 and 4 make 7", True),
    (7, "the answer is seven, 7 I mean", True),
    (2, r"\boxed{1} and then \boxed{2}", True),
    (0.1 + 0.2, "#### 0.3", True),
    (0.5, ".5", True),
    (1.5, r"\boxed{1 1/2}", True),
    (1.5, r"\boxed{1\frac12}", True),
    (-1.5, r"\boxed{-1 \frac{1}{2} \text{ cups}}", True),
    (1.5, "The answer is 1 1/2 cups.", True),
    (0.5, r"\boxed{ \frac{ 1 } { 2 } }", True),
    (12000, r"\boxed{12 000}", True),
    (1234567.5, r"\boxed{$ 1 234 567.5}", True),
    (5, "#### **5**", True),
    (5, "The answer is 4. Wait, no: the answer is 5.", True),
    (4, "The answer is 4. Wait, no: the answer is 5.", False),
    (7, "The answer is 5. Wait, the answer is 3 + 4 = 7", True),
    (5, "The answer is 5. I am sure that the answer is right.", True),
    (5000, r"The answer is 5 \times 10^3.", True),
    (5000, r"The answer is $5 \cdot 10^{3}$ m", True),
    (5000, "It is 5*10^3.", True),
    (5000, "It is 5*10**3", True),
    (5000, "Answer: 5 × 10³", True),
    (0.05, r"\boxed{5 \times 10^{-2}}", True),
    (1024, r"The answer is 2^{10}.", True),
    (1024, "So we get 2^10", True),
    (1024, r"\boxed{2^{10}}", True),
    (-1024, "Answer: -2^10", True),
    (9, "The area is 9 cm^2.", True),
    (9, "The area is 9 cm².", True),
    (5_000_000, "The answer is 5 million.", True),
    (2_500_000, r"\boxed{2.5 \text{ million dollars}}", True),
    (3000, "#### 3 thousand", True),
    (0.5, "The answer is ½.", True),
    (2.5, "#### 2½", True),
    (5, r"The answer is 5 \times 10^3.", False),
    (3, "It is 5*10^3.", False),
    (10, r"The answer is 2^{10}.", False),
    (50, r"The answer is 5 \times 10 = 50", True),
    (25, "The answer is 5^{2} = 25", True),
    (5, "The answer is 5, since the answer is not 4", True),
    (7, "The answer is not 7", False),
    (7, "It can't be $7$.", False),
    (7, r"The result is not equal to **7**, x \neq 7", False),
    (8, "The answer is not 7 but 8", True),
    (8, "It is 8, not 7.", True),
    (7, "This is a knot 7", True),
    # integers of any length, exactly
    (10**13, "#### 10000000000001", False),
    (10**13 + 1, r"\boxed{10^{13}}", False),
    (10**13, r"\boxed{1\times10^{13}}", True),
    ("12345678901234567890", "#### 12,345,678,901,234,567,891", False),
    ("12345678901234567890", "#### 12,345,678,901,234,567,890", True),
    (2**60, "#### 2^{60}", True),
    (2**60 + 1, "#### 2^{60}", False),
    (-(2**60), "#### -2^{60}", True),
    (12345678901234567890.0, "#### 12345678901234567890", True),
    (10**20, "#### 1e20", True),
    (1, "#### 0.9999999999999999", True),
    (10000000000000.5, "#### 10000000000000.5", True),
    (0.30000000000000004, "#### 0.3", True),
    (5, "#### 10/2", True),
    (5, "The answer is 5 million.", False),
    (5, r"\boxed{2^{99999}}", False),
    (56, r"\boxed{5 6}", False),
    (56, r"\boxed{5*6}", False),
    (56, r"\boxed{5\ 6}", False),
    (5.5, r"\boxed{1 1/2}", False),
    (120030, r"\boxed{1 200 30}", False),
    (1, "The answer is 1 1/2 cups.", False),
    (18, r"\boxed{18 or 19}", False),
    (18, r"\boxed{x} 18", False),
    (18, r"\boxed{18", False),
    (18, "#### none, 18", False),
    (18, "#### 18 19", False),
    (1.0000001, "#### 1", False),
    (1_000_000, "#### 999,999", False),
    (3, "the answer is 3 + 4 = 7", False),
    (1234, "1.234", False),
    (1234, "12,34", False),
    (18, "nothing", False),
    (18, "#### inf", False),
    (18, "#### nan", False),
    (0, "#### 1/0", False),
    (5, "-5", False),
    (10, r"\boxed{0.1}", False),
    (2, "version v2", False),
    (5, "<answer>5</answer> of 6", True),
    (7, "The answer is 7 or 8.", False),
    (8, "The answer is 7 or 8.", False),
    (8, "The answer is between 7 and $8$", False),
    (7, "The answer is 7 and nothing else", True),
    (7, "The answer is 7,5.", False),
    (5, "So 7,5", False),
    (5, "The train leaves at 5:30", False),
    (30, "The answer is 5:30", False),
    (3, "1, 2, 3", True),
    (1234, "So 1,234, or so", True),
]


@pytest.mark.parametrize(("gold", "text", "right"), NUMERIC)
def test_numeric__forms_of_numbers(gold: float | str, text: str, right: bool) -> None:
    verifier = Numeric()
    verifier.check_answer(gold)
    assert verifier([gold], [text]) == [Verification(float(right))]


def test_numeric__tolerances() -> None:
    assert Numeric(relative=0.01)([100], ["101"]) == [Verification(1.0)]
    assert Numeric(relative=0.01)([100], ["101.1"]) == [Verification(0.0)]
    assert Numeric(relative=0, absolute=0.5)([100], ["100.5"]) == [Verification(1.0)]
    assert Numeric(relative=0, absolute=0)([0.1], ["0.1"]) == [Verification(1.0)]
    assert Numeric(explicit=True)([5], ["it is 5"]) == [Verification(0.0)]
    assert Numeric(explicit=True)([5], ["#### 5"]) == [Verification(1.0)]
    for option in ({"relative": -1.0}, {"absolute": float("inf")}, {"relative": float("nan")}):
        with pytest.raises(ValueError, match=r"^numeric: (relative|absolute)="):
            Numeric(**option)
    for answer in ("many", "", None, True, float("nan"), "1 or 2"):
        with pytest.raises(ValueError, match=r"^numeric: the answer .* is not a number"):
            Numeric().check_answer(answer)


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "+{}", "{}.0", "{:e}"]))
def test_numeric__integers_in_any_notation(value: int, form: str) -> None:
    if form == "{:e}":
        value //= 10**4
    text = form.format(value).replace("+-", "-")
    assert number(text) == pytest.approx(value, abs=1e-3)
    for template in (r"\boxed{%s}", "#### %s", "The answer is %s.", "so it is %s", r"\boxed{\$%s}"):
        assert Numeric()([value, value + 1], [template % text] * 2) == [
            Verification(1.0),
            Verification(0.0),
        ]


@settings(deadline=None)
@given(st.text(max_size=200), st.sampled_from("ABCD"))
def test_verifiers__preceding_text_does_not_matter(text: str, letter: str) -> None:
    completion = f"{text}\nAnswer: ({letter})"
    assert Choice()([letter], [completion]) == [Verification(1.0)]
    assert Exact(normalise=False)([letter], [rf"{text} \boxed{{{letter}}}"]) == [Verification(1.0)]


@pytest.mark.parametrize("name", ["choice", "yes_no", "exact", "numeric"])
@settings(deadline=None)
@given(text=st.text(alphabet=r"A B1{}\boxed,.*#$()-+eE/" + "\n", max_size=300))
def test_verifiers__accept_any_text(name: str, text: str) -> None:
    verifier = make_verifier(name)
    for completion in (text, rf"\boxed{{{text}}}", f"Answer: {text}"):
        (result,) = verifier(["yes" if name == "yes_no" else 1], [completion])
        assert result.reward in (0.0, 1.0) and result.failure == ""


@pytest.mark.parametrize("name", ["choice", "yes_no", "exact", "numeric"])
@pytest.mark.parametrize(
    "part", ["answer is ", "1,", r"\boxed{", "**", "#### ", "answer\n", "(", "1", " "]
)
def test_verifiers__long_texts_take_linear_time(name: str, part: str) -> None:
    import time

    start = time.process_time()
    make_verifier(name)(["yes" if name == "yes_no" else 1], [part * 20_000])
    assert time.process_time() - start < 5


def test_make_verifier__invalid_names_and_options_are_refused() -> None:
    names = "math, choice, yes_no, exact, numeric, code, format"
    with pytest.raises(ValueError, match=f"^verifier: 'maths' is none of {names}, nor module:func"):
        make_verifier("maths")
    with pytest.raises(ValueError, match=r"^verifier: choice cannot be made with .*letter"):
        make_verifier("choice", letter="AB")
    with pytest.raises(ValueError, match=r"^verifier: numeric cannot be made with"):
        make_verifier("numeric", relative="much")
    with pytest.raises(ValueError, match=r"^verifier: cannot import no_such_module"):
        make_verifier("no_such_module:f")
    with pytest.raises(ValueError, match=re.escape("verifier: builtins:int gives a int, not")):
        make_verifier("builtins:int")
    custom = make_verifier("tests.llm.verifiers.test_answers:always", reward=0.5)
    assert custom(["a"], ["b"]) == [Verification(0.5)]


def always(reward: float) -> Any:
    return lambda answers, completions: [Verification(reward) for _ in completions]


def test_verifiers__answers_and_completions_must_have_the_same_length() -> None:
    with pytest.raises(ValueError, match="zip"):
        make_verifier("exact")(["a"], ["a", "b"])
