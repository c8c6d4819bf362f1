"""`python -m llm.show`: show rollout trees in the terminal or on a web page."""
