"""What a run needs, before it starts: `python -m llm.train … --dry-run`."""
