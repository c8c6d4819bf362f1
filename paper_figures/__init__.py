"""The paper's figures, one module per figure. No other package imports this one."""

from pathlib import Path

#: Folder of the figures, the records and the report.
HOME = Path(__file__).parent
