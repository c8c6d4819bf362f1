"""The table of metrics: every metric that the code writes, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import llm
from cpi.core.collect import Ledger
from llm.common.progress import SHOWN
from llm.runs.metric_names import METRICS, described

NAMES = [metric.name for metrics in METRICS.values() for metric in metrics]


def test_metrics__are_named_once_with_a_meaning() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(m.meaning.endswith(".") for metrics in METRICS.values() for m in metrics)


def test_metrics__the_code_writes_each() -> None:
    files = Path(llm.__path__[0]).rglob("*.py")
    code = "".join(f.read_text() for f in files if f.name != "metric_names.py")
    code += "".join(f'"ledger/{field.name}"' for field in dataclasses.fields(Ledger))
    ratios = r'name = "sampling/importance_sampling_ratio"'
    for name in NAMES:
        stem = name.replace("@K", "@{k}").replace("STAGE", "{name}").replace("NAME", "{name}")
        text = ratios if "importance_sampling_ratio" in name else f'"{stem}"'
        assert text in code or re.search(rf'"{re.escape(stem)}"', code), name


def test_metrics__the_ledger_and_the_step_line_are_in_the_table() -> None:
    assert {f"ledger/{field.name}" for field in dataclasses.fields(Ledger)} <= set(NAMES)
    assert all(described(name) for name in SHOWN)


def test_described__names_with_a_variable_part() -> None:
    for name, entry in (("eval/pass@16", "eval/pass@K"), ("time/reset", "time/STAGE")):
        metric = described(name)
        assert metric is not None and metric.name == entry
    assert described("eval/pass@") is None and described("rewards") is None
