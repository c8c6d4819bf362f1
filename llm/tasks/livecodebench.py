"""Tests of LiveCodeBench problems, whose hidden ones are pickled: read without running a pickle.

Jain et al. (2024), arXiv 2403.07974; fields of livecodebench/code_generation_lite.
"""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping
from typing import Any

#: Fields of a row that tests come from.
FIELDS = ["public_test_cases", "private_test_cases", "metadata"]

#: Most bytes of a row's tests; a small text may inflate to any size.
LARGEST = 1 << 30


def tests(row: Mapping[str, Any]) -> dict[str, Any]:
    """All tests of a row, as the code verifier takes them.

    Returns
    -------
    dict
        `fn_name`, the function to call, or None for programs that read standard input; `inputs`
        and `outputs`, texts.

    Raises
    ------
    ValueError
        If a field does not hold what it should.
    """
    public = _cases(row, "public_test_cases", _json)
    private = _cases(row, "private_test_cases", _hidden)
    cases = public + private
    if not cases:
        raise ValueError("it has no tests")
    metadata = _field(row, "metadata", _json)
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if name is None and any(case.get("testtype") == "functional" for case in cases):
        raise ValueError("field 'metadata' has no func_name, which its functional tests call")
    return {
        "fn_name": name,
        "inputs": [case["input"] for case in cases],
        "outputs": [case["output"] for case in cases],
    }


def _cases(row: Mapping[str, Any], field: str, read: Any) -> list[dict[str, Any]]:
    cases = _field(row, field, read)
    if not isinstance(cases, list) or not all(
        isinstance(case, dict)
        and isinstance(case.get("input"), str)
        and isinstance(case.get("output"), str)
        for case in cases
    ):
        raise ValueError(f"field {field!r} is not a list of tests with input and output")
    return cases


def _field(row: Mapping[str, Any], field: str, read: Any) -> Any:
    try:
        return read(row[field])
    except Exception as error:  # a damaged pickle raises anything
        kind = type(error).__name__
        raise ValueError(f"field {field!r} cannot be read: {kind}: {str(error)[:100]}") from None


def _json(text: Any) -> Any:
    return json.loads(text)


def _hidden(text: str) -> Any:
    """JSON as it is, or pickled, compressed and in base 64."""
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return json.loads(text)
    inflate = zlib.decompressobj()
    content = inflate.decompress(packed, LARGEST)
    if inflate.unconsumed_tail:
        raise ValueError(f"more than {LARGEST >> 20} MiB of tests")
    return json.loads(_pickled_text(content))


def _pickled_text(content: bytes) -> str:
    """The text in a pickle of a text alone, found without running it: others run any program."""
    texts = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            texts.append(argument)
        elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"):
            raise ValueError(f"its pickle holds more than a text ({opcode.name})")
    if len(texts) != 1:
        raise ValueError(f"its pickle holds {len(texts)} texts, not one")
    return str(texts[0])
