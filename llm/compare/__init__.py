"""`python -m llm.compare`: arms of a comparison, its runs and its report."""
