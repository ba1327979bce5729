"""The groupers by name. To add one, write a module in this package and list it in `GROUPERS`."""

from evosearch.groupers.base import Floats, Grouper
from evosearch.groupers.dpc_knn import Clusters, DpcKnn, dpc_knn
from evosearch.groupers.grid import GridGroups, blocks
from evosearch.groupers.k_means import KMeans
from evosearch.groupers.random_groups import RandomGroups
from evosearch.groupers.vocabulary import Vocabulary

GROUPERS: dict[str, type[Grouper]] = {
    "vocabulary": Vocabulary,
    "dpc-knn": DpcKnn,
    "random": RandomGroups,
    "k-means": KMeans,
    "grid": GridGroups,
}

__all__ = [
    "GROUPERS", "Clusters", "DpcKnn", "Floats", "GridGroups", "Grouper", "KMeans", "RandomGroups",
    "Vocabulary", "blocks", "dpc_knn",
]  # fmt: skip
