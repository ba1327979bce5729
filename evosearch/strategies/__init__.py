"""The strategies by name. To add one, write a module with a `Strategy` and list it in `STRATEGIES`."""

from evosearch.strategies.annealing import Annealing
from evosearch.strategies.base import Strategy
from evosearch.strategies.eda import Marginals
from evosearch.strategies.evolution import Evolution
from evosearch.strategies.hill_climb import HillClimb
from evosearch.strategies.random_search import RandomSearch
from evosearch.strategies.uniform import Uniform

STRATEGIES: dict[str, type[Strategy]] = {
    "evolution": Evolution,
    "random": RandomSearch,
    "hill-climb": HillClimb,
    "annealing": Annealing,
    "eda": Marginals,
    "uniform": Uniform,
}

__all__ = [
    "STRATEGIES", "Annealing", "Evolution", "HillClimb", "Marginals", "RandomSearch", "Strategy", "Uniform",
]  # fmt: skip
