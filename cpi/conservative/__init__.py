"""Conservative policy iteration with exact or sampled choices."""
