r"""Short answers: a letter, yes or no, a text; numbers are in `llm.verifiers.numeric`.

Each verifier looks for where a completion *states* its answer, in this order, and of the first kind
it finds the last one counts:

1. explicitly: `\boxed{B}`, "the answer is (B)", "Answer: B",
2. in bold, `**B**` (letters, yes and no),
3. alone, as each class says.

A statement of two answers, "B or C", is wrong, whatever was said before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from llm.verifiers.boxed import has_box, last_boxed
from llm.verifiers.verifier import Verification

# Blanks and marks are matched possessively, words in between at most so often: what a model wrote
# is read in time that grows with its length alone.
_OPENS = r"""(?:[\s*_$(\[{"'`“‘]|\\[(\[]|\\(?:text|textbf|mathrm|mathbf|boxed|fbox)(?=\s?\{))"""
_CLOSES = r"""(?:[)\]}*_$"'`”’]|\\[)\]])*+"""
_BOX = r"\\(?:boxed|fbox)\s*+\{"
_GO_ON = r"(?:because|since|as|for|or|and)\b"  # after a letter that is not a word
_STATED = r"answer|verdict|(?:correct|right|best|final|my|answer)\s++(?:option|choice)"


def _states(what: str) -> str:
    """A pattern of "the answer is", "Answer:", "correct option is therefore": up to the answer."""
    return (
        rf"\b(?i:(?:{what})\b[*_]*+(?:\s++(?:is|would\s+be|must\s+be|should\s+be)\b|\s*+[:=])"
        r"|answer\b(?=[^\S\n]*+[*_]*+[^\S\n]*+\n))[*_]*+"
        r"(?:\s*+(?:(?i:therefore|thus|hence|clearly|indeed|simply|probably|definitely|option|choice"
        rf"|letter)\b[,:]?|:)){{0,6}}+\s*+"
    )


class AnswerVerifier:
    """Judges an answer found in the text: subclasses give `stated` and `right`."""

    def stated(self, completion: str) -> str | None:
        """The answer of a completion, None if there is none."""
        raise NotImplementedError

    def right(self, answer: Any, stated: str) -> bool:
        """Whether a stated answer is the right one."""
        raise NotImplementedError

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """One verdict a completion."""
        verdicts = []
        for answer, completion in zip(answers, completions, strict=True):
            stated = self.stated(completion)
            right = stated is not None and self.right(answer, stated)
            verdicts.append(Verification(float(right)))
        return verdicts


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Where a pattern last begins to match."""
    return max(pattern.finditer(text), key=re.Match.start, default=None)


class Choice(AnswerVerifier):
    r"""Reward 1 for the right letter of a multiple-choice question.

    Letters are capitals. Explicit statements may go on: "Answer: (B) Paris", `\boxed{B. Paris}`;
    but "A" and "I" before a small letter are words ("the answer is I think …"). A letter in bold
    counts if there is no explicit statement, then a letter that is all of the last line, or begins
    it as "B) …" or "(B) …", and then "Option: B" or "the choice is B", which may be about any.

    Parameters
    ----------
    letters : str
        Those that may be answered, "ABCD" say.

    Raises
    ------
    ValueError
        If they are not different capital letters.
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
        self._bold = re.compile(rf"\*\*\(?{letter}[).:]?(?:\*\*|\s[^*\n]*\*\*)")
        self._line = re.compile(
            rf"\s*(?:\({letter}\).*|{letter.replace('letter', 'open')}(?:\).*|[.:]?\s*))"
        )

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless this is one of the letters, or the 0-based number of one."""
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
        """The letter, "" for two at once."""
        lines = completion.strip().splitlines()
        found = (
            last_match(self._explicit, completion)
            or last_match(self._bold, completion)
            or (self._line.fullmatch(lines[-1]) if lines else None)
            or last_match(self._bare, completion)
        )
        if found is None:
            return None
        groups = found.groupdict()
        return "" if groups.get("other") else groups["letter"] or groups["open"]

    def right(self, answer: Any, stated: str) -> bool:
        """Whether it is the letter."""
        return stated == self._letter(answer)


_YES = {"yes": True, "true": True, "no": False, "false": False}


class YesNo(AnswerVerifier):
    r"""Reward 1 for the right one of yes and no; true and false mean the same.

    Capitals do not matter. Without an explicit or bold statement, the last line counts that begins
    with one of the words and a mark of punctuation, or is the word alone: "No, it is not."
    """

    _word = r"(?P<word>(?i:yes|no|true|false))(?!\w|['’-]\w)"
    _explicit = re.compile(
        rf"(?:{_states('answer|verdict|option|choice')}|{_BOX}){_OPENS}{{0,12}}+{_word}{_CLOSES}"
        rf"(?P<other>\s*+(?:,|/|&|\bor\b|\band\b){_OPENS}{{0,12}}+(?i:yes|no|true|false)\b)?"
    )
    _bold = re.compile(rf"\*\*\s*{_word}[.,:!]?\s*\*\*")
    _line = re.compile(rf"(?m)^[ \t]*{_word}[ \t]*(?:[.,:;!—–-]|$)")

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless this is true, false, or one of the words."""
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
        """The word, "" for two at once."""
        for pattern in (self._explicit, self._bold, self._line):
            found = last_match(pattern, completion)
            if found is not None:
                return "" if found.groupdict().get("other") else found["word"]
        return None

    def right(self, answer: Any, stated: str) -> bool:
        """Whether it means the same."""
        meant = self._meant(stated)
        return meant is not None and meant == self._meant(answer)


class Exact(AnswerVerifier):
    r"""Reward 1 for the very text of the right answer.

    The answer is the last box; else the rest of the last line that says "the answer is …" or
    "Answer: …"; else all of the completion.

    Parameters
    ----------
    normalise : bool
        Whether capitals, the width of white space, a full stop at the end and marks around the
        answer (quotes, `**`, `$`, `\text{}`) do not matter. If not, only white space at the ends.
    """

    _rest = re.compile(
        r"\b(?i:answer)\b[*_]*+(?:\s++(?i:is)\b\s*+:?|\s*+:)[*_]*[ \t]*+(?P<rest>\S[^\n]*+)"
    )
    _text = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")

    def __init__(self, normalise: bool = True) -> None:
        self.normalise = normalise

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless this is text or a whole number, not empty."""
        if isinstance(answer, bool) or not isinstance(answer, str | int):
            raise ValueError(f"exact: the answer {answer!r} is a {type(answer).__name__}, not text")
        if not self._plain(str(answer)):
            raise ValueError(f"exact: the answer {answer!r} is empty")

    def _plain(self, text: str) -> str:
        if not self.normalise:
            return text.strip()
        text = " ".join(self._text.sub(r"\1", text).split())
        return text.strip("*_`$\"'“”‘’ ").removesuffix(".").strip("*_`$\"'“”‘’ ").casefold()

    def stated(self, completion: str) -> str | None:
        """The text."""
        if has_box(completion):
            return last_boxed(completion)
        found = last_match(self._rest, completion)
        return found["rest"] if found else completion

    def right(self, answer: Any, stated: str) -> bool:
        """Whether the texts are the same."""
        return self._plain(stated) == self._plain(str(answer))
