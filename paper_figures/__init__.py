"""The paper's plots, one module a figure. It may import every other package; none imports it."""

from pathlib import Path

#: Where figures, records and report are.
HOME = Path(__file__).parent
