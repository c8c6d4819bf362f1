"""What a run writes: checkpoints, metrics, records of rollouts; and how it is found again."""
