"""Files of a run: checkpoints, metrics, rollout records; and how they are read back."""
