"""`python -m llm.export`: export a run as a Hugging Face model with a model card."""
