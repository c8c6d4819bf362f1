"""`python -m llm.compare`: arms, runs and report of a comparison."""
