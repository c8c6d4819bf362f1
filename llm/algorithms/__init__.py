"""Algorithms: what a training step samples and trains on."""

from __future__ import annotations

from cpi.core.plans import ALGORITHMS
from llm.algorithms.algorithm import Algorithm, Setup
from llm.algorithms.batch import Batch
from llm.algorithms.resets import ResetAlgorithm
from llm.common.plugins import import_object, users_code
from llm.config.algorithms import CLASSES
from llm.config.train import TrainConfig

__all__ = ["Algorithm", "Batch", "Setup", "about", "algorithm_class", "make_algorithm"]


def algorithm_class(config: TrainConfig) -> type[Algorithm]:
    """The class behind `config.algorithm`.

    Raises
    ------
    ValueError
        If a user's class cannot be imported, or is no `Algorithm`.
    """
    name = config.algorithm
    if name in ALGORITHMS:
        return ResetAlgorithm
    found = import_object(CLASSES.get(name, name), "algorithm")
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(
            f"algorithm: {name} is {found!r}, not a subclass of llm.algorithms.Algorithm"
        )
    return found


def make_algorithm(config: TrainConfig, setup: Setup) -> Algorithm:
    """The algorithm of a run, which has seen all training prompts.

    Raises
    ------
    ValueError
        If it cannot be made, or refuses a prompt.
    """
    kind = algorithm_class(config)
    with users_code(f"algorithm: {config.algorithm}", kind):
        algorithm = kind(setup, **config.algorithm_args)
    algorithm.check(setup.prompts)
    return algorithm


def about(config: TrainConfig) -> str:
    """The method of a run in a sentence."""
    name = config.algorithm
    if name in ALGORITHMS:
        return f"{name.upper()}: {ALGORITHMS[name].about}"
    return algorithm_class(config).about or f"The algorithm is {name}"
