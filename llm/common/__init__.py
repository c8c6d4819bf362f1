"""Helpers that know nothing of language models: statistics, progress, files, random generators."""
