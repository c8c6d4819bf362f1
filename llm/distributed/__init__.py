"""Several processes in one training run, and operations that give the same bits every time."""
