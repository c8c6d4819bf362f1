"""Chain reasoning: a tiny model for it, and the exact values of any model on it."""
