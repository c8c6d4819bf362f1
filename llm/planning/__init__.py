"""Resources that a run needs, planned before it starts: `python -m llm.train … --dry_run`."""
