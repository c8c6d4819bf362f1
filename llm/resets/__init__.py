"""Where to reset in a failed episode: localizers, oracles, and their quality."""
