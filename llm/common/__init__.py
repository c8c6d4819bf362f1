"""Helpers independent of language models: statistics, progress, files, random generators."""
