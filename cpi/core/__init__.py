"""Prefixes, episodes, reset rules, plans and advantages, for tabular and language-model worlds."""
