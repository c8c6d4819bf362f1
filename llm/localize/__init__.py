"""`python -m llm.localize`: how well a model finds the first error of labelled solutions."""
