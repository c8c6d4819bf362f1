"""`python -m llm.exact`: compares a training run on chain reasoning with exact theory."""
