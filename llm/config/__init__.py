"""Settings of a training run, and the parser of the command line."""
