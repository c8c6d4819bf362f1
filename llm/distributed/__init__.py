"""Multi-process training runs, and deterministic GPU operations."""
