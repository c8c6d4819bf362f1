r"""Verifiers of short answers: a letter, yes or no, a text (numbers: `llm.verifiers.numeric`).

A completion can state its answer in three ways, tried in this order:

1. explicitly: `\boxed{B}`, "the answer is (B)", "Answer: B", `<answer>B</answer>`,
2. in bold, `**B**` (letters, yes and no),
3. alone, as described in each class.

The last statement of the first way that occurs counts. A statement of two answers, "B or C", is
wrong, whatever precedes it, and so is a box that is never closed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llm.verifiers.boxed import BOX, closed, has_box, last_boxed
from llm.verifiers.verifier import Verification

# Completions must be scanned in linear time. Blanks and marks are therefore matched possessively,
# and words between them a bounded number of times.
_OPENS = r"""(?:[\s*_$(\[{"'`“‘]|\\[(\[]|\\(?:text|textbf|mathrm|mathbf|boxed|fbox)(?=\s?\{))"""
_CLOSES = r"""(?:[)\]}*_$"'`”’]|\\[)\]])*+"""
_BOX = r"\\(?:boxed|fbox)\s*+\{"
_GO_ON = r"(?:because|since|as|for|or|and)\b"  # may follow the letters A and I
_NOT_DENIED = r"(?<!\b[nN]ot\s)(?<!n['’]t\s)"  # "the answer is not **B**"
_STATED = r"answer|verdict|(?:correct|right|best|final|my|answer)\s++(?:option|choice)"


def _states(subject: str) -> str:
    """Pattern up to the beginning of an answer: "the answer is", "Answer:", "option is thus"."""
    return (  # "the answer is", `<answer>`, and a heading "Answer"
        rf"\b(?i:(?:{subject})\b[*_]*+(?:\s++(?:is|would\s+be|must\s+be|should\s+be)\b|\s*+[:=])"
        r"|(?<=<)answer>"
        r"|answer\b(?=[^\S\n]*+[*_]*+[^\S\n]*+\n))[*_]*+"
        r"(?:\s*+(?:(?i:therefore|thus|hence|clearly|indeed|simply|probably|definitely|option|choice"
        rf"|letter)\b[,:]?|:)){{0,6}}+\s*+"
    )


class AnswerVerifier:
    """Finds the answer in a completion and compares it; subclasses define `stated` and `right`."""

    def stated(self, completion: str) -> str | None:
        """Return the answer stated in a completion; None if there is none."""
        raise NotImplementedError

    def right(self, answer: Any, stated: str) -> bool:
        """Whether a stated answer is correct."""
        raise NotImplementedError

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Return one verification for each completion."""
        verifications = []
        for answer, completion in zip(answers, completions, strict=True):
            stated = self.stated(completion)
            right = stated is not None and self.right(answer, stated)
            verifications.append(Verification(float(right)))
        return verifications


def is_finished(match: re.Match[str]) -> bool:
    """Whether a match contains no box that is never closed, as in a truncated text."""
    box = BOX.search(match.string, match.start(), match.end())
    return box is None or closed(match.string, box.end()) is not None


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the match of a pattern that begins last."""
    return max(pattern.finditer(text), key=re.Match.start, default=None)


_STATEMENT = re.compile(
    r"\b(?i:answer)\b[*_]*+(?:\s++(?i:is)\b\s*+:?|\s*+:)[*_]*[ \t]*+(?=\S)|<(?i:answer)>\s*+"
    r"|(?m:^)[#*_ \t]*+(?i:(?:final )?answer)\b[*_: \t]*+\n\s*+(?=\S)[*_]*"  # a heading
)


_CLOSING = re.compile(r"</(?i:answer)>")


def last_statement(text: str) -> str | None:
    """Rest of the line after the last "answer is", "Answer:", `<answer>` or heading "Answer"."""
    match = last_match(_STATEMENT, text)
    return _CLOSING.split(text[match.end() :].partition("\n")[0], 1)[0] if match else None


class Choice(AnswerVerifier):
    r"""Reward 1 for the correct letter of a multiple-choice question.

    Letters are capitals. Text may follow the letter: "Answer: (B) Paris", `\boxed{B. Paris}`. "A"
    and "I" before a lower-case letter are words ("the answer is I think …").

    Without an explicit statement, the first of these counts:

    - a letter in bold,
    - a letter that is the whole last line, or begins it as "B) …" or "(B) …",
    - "Option: B" or "the choice is B", which may describe any option.

    Parameters
    ----------
    letters : str
        Letters of the options, such as "ABCD".

    Raises
    ------
    ValueError
        If `letters` are not distinct capital letters.
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        if not re.fullmatch("[A-Z]{2,}", letters) or len(set(letters)) < len(letters):
            raise ValueError(
                f"choice: letters={letters!r}: give different capital letters, such as ABCD"
            )
        self.letters = letters
        ends, no_word = r"(?!\w|['’-]\w)", rf"(?!(?<=[AI])\s(?!{_GO_ON})[a-z])"
        letter = rf"(?P<letter>[{letters}]){ends}{no_word}"
        second = rf"\s*+{_OPENS}{{0,12}}+[{letters}]{ends}"
        other = rf"(?P<other>\s*+(?:,?+\s*+(?:\b(?:or|and)\b|[/&]){second}|,{second}{no_word}))?"
        stated = rf"{_OPENS}{{0,12}}+{letter}{_CLOSES}{other}"
        self._explicit = re.compile(rf"(?:{_states(_STATED)}|{_BOX}){stated}")
        self._bare = re.compile(rf"{_states('option|choice')}{stated}")
        self._bold = re.compile(rf"{_NOT_DENIED}\*\*\(?{letter}[).:]?(?:\*\*|\s[^*\n]*\*\*)")
        self._line = re.compile(
            rf"\s*(?:\({letter}\).*|{letter.replace('letter', 'open')}(?:\).*|[.:]?\s*))"
        )

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless the answer is a letter or its 0-based index."""
        if self._letter(answer) not in list(self.letters):
            raise ValueError(
                f"choice: the answer {answer!r} is none of the letters {self.letters}, nor the "
                f"number of one, 0 to {len(self.letters) - 1}; see the option letters"
            )

    def _letter(self, answer: Any) -> str:
        if isinstance(answer, int) and not isinstance(answer, bool):
            return self.letters[answer] if 0 <= answer < len(self.letters) else ""
        return answer.strip(" ().") if isinstance(answer, str) else ""

    def stated(self, completion: str) -> str | None:
        """Return the stated letter; "" for two at once, None for none."""
        lines = completion.strip().splitlines()
        match = (
            last_match(self._explicit, completion)
            or last_match(self._bold, completion)
            or (self._line.fullmatch(lines[-1]) if lines else None)
            or last_match(self._bare, completion)
        )
        if match is None or not is_finished(match):
            return None
        groups = match.groupdict()
        return "" if groups.get("other") else groups["letter"] or groups["open"]

    def right(self, answer: Any, stated: str) -> bool:
        """Whether the stated letter is the answer."""
        return stated == self._letter(answer)


_YES = {"yes": True, "true": True, "no": False, "false": False}


class YesNo(AnswerVerifier):
    r"""Reward 1 for the correct one of yes and no; true and false are synonyms.

    Case is ignored. Without an explicit or bold statement, a line may state the answer: the word
    alone, or followed by punctuation ("No, it is not."). The last such line counts.
    """

    _word = r"(?P<word>(?i:yes|no|true|false))(?!\w|['’-]\w)"
    _explicit = re.compile(
        rf"(?:{_states('answer|verdict|option|choice')}|{_BOX}){_OPENS}{{0,12}}+{_word}{_CLOSES}"
        rf"(?P<other>\s*+(?:,|/|&|\bor\b|\band\b){_OPENS}{{0,12}}+(?i:yes|no|true|false)\b)?"
    )
    _bold = re.compile(rf"{_NOT_DENIED}\*\*\s*{_word}[.,:!]?\s*\*\*")
    _line = re.compile(rf"(?m)^[ \t]*{_word}[ \t]*(?:[.,:;!—–-]|$)")

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless the answer is a bool or one of the words."""
        if self._meant(answer) is None:
            raise ValueError(
                f"yes_no: the answer {answer!r} is not true or false, nor 'yes', 'no', 'true', "
                "'false'"
            )

    def _meant(self, answer: Any) -> bool | None:
        if isinstance(answer, str):
            return _YES.get(answer.strip().lower())
        return answer if isinstance(answer, bool) else None

    def stated(self, completion: str) -> str | None:
        """Return the stated word; "" for two at once, None for none."""
        for pattern in (self._explicit, self._bold, self._line):
            match = last_match(pattern, completion)
            if match is not None:
                ambiguous = match.groupdict().get("other") or not is_finished(match)
                return "" if ambiguous else match["word"]
        return None

    def right(self, answer: Any, stated: str) -> bool:
        """Whether the stated word means the same as the answer."""
        meant = self._meant(stated)
        return meant is not None and meant == self._meant(answer)


class Exact(AnswerVerifier):
    r"""Reward 1 for the same text as the answer, or as one of a list of accepted answers.

    The stated answer is the last box. Without a box it is the text after the last "the answer is"
    or "Answer:", up to the end of the line. Otherwise it is the whole completion.

    Parameters
    ----------
    normalise : bool
        Ignore case, the width of white space, a final full stop, and marks around the answer
        (quotes, `**`, `$`, `\text{}`). If false, ignore only white space at the ends.
    """

    _text = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")

    def __init__(self, normalise: bool = True) -> None:
        self.normalise = normalise

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless the answer is a non-empty text, an integer, or a list of these.

        A boolean is text if case is ignored: JSON and Python write `true` differently.
        """
        if not _accepted(answer):
            raise ValueError(f"exact: the answer {answer!r} is empty")
        for each in _accepted(answer):
            if not isinstance(each, str | int) or (isinstance(each, bool) and not self.normalise):
                kind = type(each).__name__
                raise ValueError(f"exact: the answer {each!r} is a {kind}, not text")
            if not self._plain(str(each)):
                raise ValueError(f"exact: the answer {each!r} is empty")

    def _plain(self, text: str) -> str:
        if not self.normalise:
            return text.strip()
        text = " ".join(self._text.sub(r"\1", text).split())
        return text.strip("*_`$\"'“”‘’ ").removesuffix(".").strip("*_`$\"'“”‘’ ").casefold()

    def stated(self, completion: str) -> str | None:
        """Return the text of the stated answer."""
        if has_box(completion):
            return last_boxed(completion)
        return last_statement(completion) or completion

    def right(self, answer: Any, stated: str) -> bool:
        """Whether the text equals an accepted one, after normalisation."""
        return self._plain(stated) in {self._plain(str(each)) for each in _accepted(answer)}


def _accepted(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]
