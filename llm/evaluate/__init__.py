"""`python -m llm.evaluate`: pass@k, self-correction and published scores."""
