"""`python -m llm.show`: rollout trees in the terminal or as a page."""
