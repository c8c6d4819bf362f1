"""Where to reset in a failed episode: localizers and oracles, and how good they are."""
