"""`python -m llm.train`: the training command and its loop."""
