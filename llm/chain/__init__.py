"""The chain-reasoning world: a tiny model for it, and the exact values of any model on it."""
