"""A candidate in DEAP's form: a list of genes with a fitness."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

from deap.base import Fitness


class Loss(Fitness):
    """A fitness to minimise; in DEAP's comparisons, `a > b` means that a has the smaller loss."""

    weights = (-1.0,)

    def __init__(self, values: Iterable[float] = ()) -> None:
        # Skips DEAP's check of the weights, which costs more than the rest of a clone.
        self.wvalues = tuple(-value for value in values)


class Individual(list[int]):
    """A genome: one pick per group (item indices for strategies that ignore groups).

    A module-level class, unlike those of `deap.creator`, so that it can be pickled in any process. DEAP
    operators change it in place, like any list. Operators may set attributes, such as the mutation rate of a
    self-adaptive mutation; a clone copies them.
    """

    fitness: Loss

    def __init__(self, genes: Iterable[int] = ()) -> None:
        list.__init__(self, genes)
        self.fitness = Loss()

    @property
    def loss(self) -> float:
        """The loss measured by the search; IndexError before the evaluation."""
        return float(self.fitness.values[0])

    def clone(self) -> Individual:
        """Return an independent copy with fitness and all attributes.

        The result is that of DEAP's default, `copy.deepcopy`, at a fraction of the cost.
        """
        twin = Individual.__new__(Individual)  # skips three constructors, which take longer than the copy
        twin += self[:]  # a plain list is added without iteration
        twin.fitness = Loss.__new__(Loss)
        twin.fitness.wvalues = self.fitness.wvalues
        if len(self.__dict__) > 1:
            own = {name: value for name, value in vars(self).items() if name != "fitness"}
            vars(twin).update(deepcopy(own))
        return twin

    def __deepcopy__(self, memo: dict[int, object]) -> Individual:
        return self.clone()
