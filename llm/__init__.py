"""The language-model world: engines, the thought MDP, localizers, losses and the trainer.

It plugs into the reset and advantage abstractions of `cpi` and may import `cpi` and `envs`; neither
imports it. Its public names are loaded when they are first used, so that `import llm` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.algorithms import Algorithm
    from llm.config.train import TrainConfig
    from llm.evaluate.runner import evaluate_model
    from llm.tasks import Example, Task
    from llm.train.run import Run, train_model
    from llm.train.trainer import Trainer

__all__ = [
    "Algorithm",
    "Example",
    "Run",
    "Task",
    "TrainConfig",
    "Trainer",
    "evaluate_model",
    "train_model",
]

#: By which commands tell this package from the other `llm` on PyPI.
PROJECT = "credit-resets"

_MODULES = {
    "Algorithm": "llm.algorithms",
    "Example": "llm.tasks",
    "Run": "llm.train.run",
    "Task": "llm.tasks",
    "TrainConfig": "llm.config.train",
    "Trainer": "llm.train.trainer",
    "evaluate_model": "llm.evaluate.runner",
    "train_model": "llm.train.run",
}


def __getattr__(name: str) -> Any:
    """A public name, from its module."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'llm' has no attribute {name!r}")
