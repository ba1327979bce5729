"""A candidate as DEAP knows it: a list of genes that carries a fitness."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

from deap.base import Fitness


class Loss(Fitness):
    """A fitness to minimise; in DEAP's comparisons, `a > b` means that a has the smaller loss."""

    weights = (-1.0,)

    def __init__(self, values: Iterable[float] = ()) -> None:
        # Without DEAP's check of the weights, which costs more than all the rest of a clone.
        self.wvalues = tuple(-value for value in values)


class Individual(list[int]):
    """A genome: one pick per group (item indices for strategies that ignore groups).

    A module-level class, unlike those of `deap.creator`, so that it pickles in any process. DEAP operators
    change it in place, as they do any list. Operators may give it attributes of their own, such as the
    mutation rate of a self-adaptive mutation: a clone has them too.
    """

    fitness: Loss

    def __init__(self, genes: Iterable[int] = ()) -> None:
        list.__init__(self, genes)
        self.fitness = Loss()

    @property
    def loss(self) -> float:
        """The loss that the search has measured; IndexError before that."""
        return float(self.fitness.values[0])

    def clone(self) -> Individual:
        """An independent copy with its fitness and all attributes.

        Far cheaper than DEAP's default, `copy.deepcopy`, which gives the same.
        """
        twin = Individual.__new__(Individual)  # past three constructors, which take longer than the copy
        twin += self[:]  # a plain list, which is added without being iterated
        twin.fitness = Loss.__new__(Loss)
        twin.fitness.wvalues = self.fitness.wvalues
        if len(self.__dict__) > 1:
            own = {name: value for name, value in vars(self).items() if name != "fitness"}
            vars(twin).update(deepcopy(own))
        return twin

    def __deepcopy__(self, memo: dict[int, object]) -> Individual:
        return self.clone()
