"""`python -m llm.train`: the training loop."""
