r"""Units after a number: some are compared, all are dropped."""

from __future__ import annotations

import re

from llm.verifiers.math_text import TEXT

#: Units that are compared. Other words after a number are dropped.
_UNITS = """
mm millimeter millimeters millimetre millimetres
cm centimeter centimeters centimetre centimetres
m meter meters metre metres
km kilometer kilometers kilometre kilometres
in inch inches
ft foot feet
yd yard yards
mi mile miles
mi/h mph
km/h kph kmh kmph
mg milligram milligrams
g gram grams
kg kilogram kilograms
lb lbs pound pounds
oz ounce ounces
s sec second seconds
min minute minutes
h hr hrs hour hours
day days
week weeks
month months
year years yr
l L liter liters litre litres
ml mL milliliter milliliters millilitre millilitres
cent cents
dollar dollars
degree degrees
radian radians rad
celsius
fahrenheit
"""
_NAMES = {"meter": "m", "gram": "g", "liter": "L", "second": "s", "newton": "N", "joule": "J",
    "watt": "W", "volt": "V", "ampere": "A", "pascal": "Pa", "hertz": "Hz", "calorie": "cal",
    "mole": "mol", "ohm": "ohm"}  # fmt: skip
_PREFIXES = {"": "", "nano": "n", "micro": "u", "milli": "m", "kilo": "k", "mega": "M"}
#: Names of the units whose symbols count as units in \text{} only: 5N may be a product.
_SYMBOLS = {
    prefix + symbol: long + name
    for long, prefix in _PREFIXES.items()
    for name, symbol in _NAMES.items()
}
_UNIT_OF = {name + plural: name for name in _SYMBOLS.values() for plural in ("", "s")}
_UNIT_OF |= {name: names.split()[0] for names in _UNITS.split("\n") for name in names.split()}
_KNOWN = "|".join(sorted(_UNIT_OF, key=len, reverse=True))
_POWER = r"\.?(?:\s*\^\s*\{?[23]\}?)?$"
_AFTER = r"(?:(?<=[\d})])|(?<=\\pi))"
_TEXT = TEXT.pattern.replace("([^{}]*)", "[a-zA-Z ./]*")
_EXPONENT = r"\s*\^\s*(?:-?\d|\{\s*-?\d\s*\})"
#: A unit in \text{}, perhaps of several parts: \mathrm{kg} \cdot \mathrm{m} / \mathrm{s}^2.
_TEXT_UNIT = re.compile(
    rf"{_AFTER}\s*{_TEXT}(?:(?:{_EXPONENT})?\s*(?:/|\\cdot(?![a-zA-Z]))?\s*{_TEXT})*(?={_POWER})"
)
_LAST_LETTERS = re.compile(r"(?<=[\d}])\s*([a-zA-Z]{1,2})$")
_NO_UNIT = "squared|cubed|factorial|plus|minus|times|over|choose|divided|point"
#: Words after a number, up to the end. Unknown ones have four letters or more: abc is a product.
UNIT = re.compile(
    rf"{_AFTER}(?:\s*(?=[a-zA-Z]{{2}}|\w\s*/)|\s+)(?P<unit>(?:(?:square|cubic|sq|cu)\.?\s+)?"
    rf"(?:(?:of|{_KNOWN})(?![a-zA-Z])|(?<=\s)(?!{_NO_UNIT})[a-zA-Z]{{4,}})(?:(?:\s+|\s*/\s*)[a-zA-Z]+)*){_POWER}"
)

_NOON = re.compile(r"(?<=\d)\s*(noon|midnight)$")
#: A time of day. Without minutes, a blank or stops tell 6 am from the product 6am.
_CLOCK = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d\d)(?:\s*([ap])\.?\s*m\.?)?|(?:\s+([ap])\.?\s*m\.?|([ap])\.\s*m\.?)?)",
    re.I,
)


def _half(noon: re.Match[str]) -> str:
    return " pm" if noon[1] == "noon" else " am"


def same_time(gold: str, answer: str) -> bool | None:
    """Whether two times of day agree; None if neither has a.m. or p.m.

    A time without them agrees with both, as a number without its unit does. 18:30 is 6:30 p.m.
    """
    clocks = [
        _CLOCK.fullmatch(_NOON.sub(_half, TEXT.sub(r" \1", text).replace("{:}", ":").strip()))
        for text in (gold, answer)
    ]
    halves = [(c[3] or c[4] or c[5] or "").lower() if c else "" for c in clocks]
    if not any(halves):
        return None
    possible = [
        _minutes(int(c[1]), int(c[2] or 0), half) if c else set()
        for c, half in zip(clocks, halves, strict=True)
    ]
    return bool(possible[0] & possible[1])


def _minutes(hour: int, minute: int, half: str) -> set[int]:
    """Minutes since midnight that a time of day may mean."""
    hours = {hour} if not 1 <= hour <= 12 else {hour % 12, hour % 12 + 12}
    return {60 * h + minute for h in hours if half in ("", "p" if h >= 12 else "a")}


def plain_unit(text: str) -> str:
    r"""Write a unit in `\text{}` after a number as plain words, and its symbol as its name."""

    def plain(unit: re.Match[str]) -> str:
        words = re.sub(rf"{_EXPONENT}|\\cdot(?![a-zA-Z])", " ", TEXT.sub(r" \1 ", unit[0]))
        words = re.sub("[a-zA-Z]+", lambda name: _SYMBOLS.get(name[0], name[0]), words)
        return " " + " ".join(words.split())

    return _TEXT_UNIT.sub(plain, text)


def units(text: str) -> list[str]:
    """Known units at the end of an answer and the power of the last; else a dollar sign before."""
    last = UNIT.search(re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*$", " degree", text))
    names = re.findall("[a-zA-Z]+", last["unit"]) if last else []
    known = [part for name in names if name in _UNIT_OF for part in _UNIT_OF[name].split("/")]
    if last is None or not known:
        return ["dollar"] if text.startswith(r"\$") else []
    power = re.search(r"\^\s*\{?([23])", last[0])
    words = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
    return [*known, *filter(None, [power[1] if power else words.get(names[0])])]


def without_unit(text: str, letters: set[str]) -> str:
    """Drop words after a number; mark a variable, as in 3t, so that it is not dropped like one."""
    last = _LAST_LETTERS.search(text)
    variable = last is not None and set(last[1]) <= letters
    if last is not None and variable and (len(last[1]) == 1 or last[1] not in _UNIT_OF):
        return text[: last.start()] + "{" + last[1] + "}"
    unit = UNIT.search(text)
    return text[: unit.start()] if unit and not re.search(r"\b(?:or|and)\b", text) else text
