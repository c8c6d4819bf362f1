"""Training algorithms: each one makes the batches that the trainer optimizes."""

from __future__ import annotations

from cpi.core.plans import ALGORITHMS
from llm.algorithms.algorithm import Algorithm, Setup
from llm.algorithms.batch import Batch
from llm.algorithms.plan_and_rule import PlanAndRuleAlgorithm
from llm.common.plugins import import_object, plugin_errors
from llm.config.algorithms import CLASSES
from llm.config.train import TrainConfig

__all__ = ["Algorithm", "Batch", "Setup", "about", "algorithm_class", "make_algorithm"]


def algorithm_class(config: TrainConfig) -> type[Algorithm]:
    """The class that `config.algorithm` names.

    Raises
    ------
    ValueError
        If a user's class cannot be imported, or is not an `Algorithm`.
    """
    name = config.algorithm
    if name in ALGORITHMS:
        return PlanAndRuleAlgorithm
    plugin = import_object(CLASSES.get(name, name), "algorithm")
    if not (isinstance(plugin, type) and issubclass(plugin, Algorithm)):
        raise ValueError(
            f"algorithm: {name} is {plugin!r}, not a subclass of llm.algorithms.Algorithm"
        )
    return plugin


def make_algorithm(config: TrainConfig, setup: Setup) -> Algorithm:
    """Construct the algorithm of a run, and check the training prompts.

    Raises
    ------
    ValueError
        If the algorithm cannot be constructed, or refuses a prompt.
    """
    kind = algorithm_class(config)
    with plugin_errors(f"algorithm: {config.algorithm}", kind):
        algorithm = kind(setup, **config.algorithm_args)
    algorithm.check(setup.prompts)
    return algorithm


def about(config: TrainConfig) -> str:
    """One sentence on the method of a run."""
    name = config.algorithm
    if name in ALGORITHMS:
        label = f"{name.upper()}: " if name.endswith("po") else ""
        return f"{label}{ALGORITHMS[name].about}"
    return algorithm_class(config).about or f"The algorithm is {name}"
