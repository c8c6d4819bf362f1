"""Verifiers: how a completion is judged against the answer of a data set."""
