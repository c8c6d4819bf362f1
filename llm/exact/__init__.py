"""`python -m llm.exact`: the exact bridge from theory to a training run on chain reasoning."""
