"""Search for one item per group that minimise a loss: a model-independent search engine on DEAP."""

from evosearch.archive import Archive, Fitness, Proposals
from evosearch.budget import Budget
from evosearch.groupers import (
    GROUPERS,
    Clusters,
    DpcKnn,
    GridGroups,
    Grouper,
    KMeans,
    RandomGroups,
    Vocabulary,
    dpc_knn,
)
from evosearch.grouping import Grouping
from evosearch.individual import Individual, Loss
from evosearch.operators import CROSSOVERS, MUTATIONS, half_split, shift
from evosearch.registry import describe, find, options, parse, pick, unknown
from evosearch.rounds import alone, together
from evosearch.search import Callback, Iteration, Result, propose, search
from evosearch.strategies import (
    STRATEGIES,
    Annealing,
    Evolution,
    HillClimb,
    Marginals,
    RandomSearch,
    Strategy,
    Uniform,
)

__all__ = [
    "CROSSOVERS", "GROUPERS", "MUTATIONS", "STRATEGIES", "Annealing", "Archive", "Budget", "Callback",
    "Clusters", "DpcKnn", "Evolution", "Fitness", "GridGroups", "Grouper", "Grouping", "HillClimb",
    "Individual", "Iteration", "KMeans", "Loss", "Marginals", "Proposals", "RandomGroups", "RandomSearch",
    "Result", "Strategy", "Uniform", "Vocabulary", "alone", "describe", "dpc_knn", "find", "half_split",
    "options", "parse", "pick", "propose", "search", "shift", "together", "unknown",
]  # fmt: skip
