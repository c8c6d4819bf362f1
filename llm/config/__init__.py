"""Settings of a training run, and how a command line becomes settings."""
