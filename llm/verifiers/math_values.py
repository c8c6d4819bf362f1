"""Compares the values of parsed answers, in place of math-verify's own comparison of values.

math-verify rounds both values to 15 decimal places, so it takes 1/2004! for 1/2006!. Here numbers
are compared exactly. Where that cannot be decided, as for sums of roots or sines, their difference
is evaluated until it is told from zero, to 400 digits at most. Expressions with variables are
compared so at several points.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

#: Digits to which a difference that seems to be zero is evaluated.
DIGITS = 400
#: Points at which expressions with variables are compared: positive ones, then any.
POINTS = 4


def use_exact_values() -> None:
    """Make math-verify compare values with `same_value`, and tell capital from small letters."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from math_verify import grader, parser

    case = ConversionConfig(lowercase_symbols=False)
    parser.latex2sympy = partial(latex2sympy, conversion_config=case)
    grader.sympy_numeric_eq = lambda gold, answer, *_: same_value(gold, answer)
    grader.sympy_symbolic_eq = lambda gold, answer: False


def same_value(gold: Any, answer: Any) -> bool:
    """Whether two sympy expressions or matrices have the same value."""
    import sympy
    from sympy import Expr, MatrixBase, Rational

    gold, answer = gold.doit(), answer.doit()
    if gold == answer:
        return True
    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        return gold.shape == answer.shape and all(map(same_value, gold.flat(), answer.flat()))
    if not isinstance(gold, Expr) or not isinstance(answer, Expr):
        return False
    difference = gold - answer
    symbols = sorted(difference.free_symbols, key=str)
    if not symbols:
        return _vanishes(difference)
    pieces = (sympy.Abs, sympy.Max, sympy.Min, sympy.Piecewise, sympy.floor, sympy.ceiling)
    if difference.has(*pieces, sympy.sign):  # may agree in some regions only
        return bool(sympy.simplify(difference) == 0)
    rng, agree = random.Random(0), False
    for k in range(2 * POINTS):
        signs = [1] if k < POINTS else [1, -1]
        point = [(s, Rational(rng.choice(signs) * rng.randint(1, 60), 7)) for s in symbols]
        values = [side.subs(point) for side in (gold, answer)]
        if k >= POINTS and not any(map(_is_real, values)):
            continue  # outside the domain, as roots of negative numbers are
        if not _vanishes(values[0] - values[1]):
            return False
        agree = True
    return agree


def _is_real(value: Any) -> bool:
    number = value.evalf(15)
    return bool(number.is_Float or number.is_Rational)


def _vanishes(number: Any) -> bool:
    """Whether a number is zero, or cannot be told from zero in `DIGITS` digits."""
    if number.is_Rational or number.is_finite is False:
        return bool(number == 0)
    value = number.evalf(15, maxn=DIGITS)
    parts = value.as_real_imag()
    return all(p == 0 or (p.is_Float and p._prec < 20) for p in parts)
