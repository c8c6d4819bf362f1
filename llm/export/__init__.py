"""`python -m llm.export`: a run as a Hugging Face model with its card."""
