"""Registry of verifiers, which check completions against the answers of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm.common.plugins import import_object
from llm.verifiers.answers import Choice, Exact, YesNo
from llm.verifiers.maths import MathVerifier
from llm.verifiers.numeric import Numeric
from llm.verifiers.programs import CodeVerifier
from llm.verifiers.verifier import Verification, Verifier
from llm.verifiers.weighted import Format, Weighted

__all__ = ["VERIFIERS", "Verification", "Verifier", "make_verifier", "make_weighted"]

#: Factories of verifiers, by name.
VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "math": MathVerifier,
    "choice": Choice,
    "yes_no": YesNo,
    "exact": Exact,
    "numeric": Numeric,
    "code": CodeVerifier,
    "format": Format,
}


def make_weighted(parts: Mapping[str, Any]) -> tuple[Verifier, float]:
    """Create a sum of rewards; returns it with the weight of the first one.

    Parameters
    ----------
    parts : mapping
        Name of a verifier, or module:function → weight, or `{weight: .1}` with its options.

    Raises
    ------
    ValueError
        If a name, weight or option is invalid.
    """
    made: dict[str, tuple[float, Verifier]] = {}
    for name, value in parts.items():
        options = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = options.pop("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < 1e9:
            raise ValueError(f"reward: the weight {weight!r} of {name} is not a number ≥ 0")
        made[name.rpartition(":")[2]] = float(weight), make_verifier(name, **options)
    first = next(iter(made.values()))[0]
    if not first:
        raise ValueError("reward: the first reward decides what is a success; give it a weight > 0")
    return Weighted(made), first


def make_verifier(name: str, /, **options: Any) -> Verifier:
    """Create a verifier by name, or by calling `module:function` with the options.

    Raises
    ------
    ValueError
        If the name is unknown, or the verifier does not accept the options.
    """
    if name not in VERIFIERS and ":" not in name:
        raise ValueError(
            f"verifier: {name!r} is none of {', '.join(VERIFIERS)}, nor module:function"
        )
    make = VERIFIERS[name] if name in VERIFIERS else import_object(name, "verifier")
    try:
        verifier: Verifier = make(**options)
    except ValueError:  # raised by the verifier itself, with a message for the user
        raise
    except Exception as error:
        cause = str(error) if isinstance(error, TypeError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"verifier: {name} cannot be made with {options}: {cause}") from error
    if not callable(verifier):
        raise ValueError(f"verifier: {name} gives a {type(verifier).__name__}, not a function")
    return verifier
