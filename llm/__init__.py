"""The language-model world: engines, the thought MDP, localizers, losses and the trainer.

It plugs into the reset and advantage abstractions of `cpi` and may import `cpi` and `envs`; neither
imports it.
"""

#: By which commands tell this package from the other `llm` on PyPI.
PROJECT = "credit-resets"
