"""Unit tests of LiveCodeBench; pickled hidden tests are read without running the pickle.

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

#: Fields of a row that hold tests.
FIELDS = ["public_test_cases", "private_test_cases", "metadata"]

#: Maximum bytes of a row's tests; a small text may inflate to any size.
LARGEST = 1 << 30


def tests(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return all tests of a row in the form of the code verifier.

    Returns
    -------
    dict
        `fn_name`, the function to call, or None for programs that read standard input; `inputs`
        and `outputs`, lists of texts.

    Raises
    ------
    ValueError
        If a field is damaged or has another form.
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
    except Exception as error:  # a damaged pickle may raise any exception
        kind = type(error).__name__
        raise ValueError(f"field {field!r} cannot be read: {kind}: {str(error)[:100]}") from None


def _json(text: Any) -> Any:
    return json.loads(text)


def _hidden(text: str) -> Any:
    """Decode JSON, either plain, or pickled, compressed and in base 64."""
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
    """Read a pickle that holds one text, without running it: a pickle may run any code."""
    texts = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            texts.append(argument)
        elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"):
            raise ValueError(f"its pickle holds more than a text ({opcode.name})")
    if len(texts) != 1:
        raise ValueError(f"its pickle holds {len(texts)} texts, not one")
    return str(texts[0])
