"""Shared by all figures: records, drawing, verdicts and the report."""
