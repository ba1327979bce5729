"""Where the jobs of a long campaign are done: on this machine, or on a Ray cluster, with equal results."""

from compress.parallel.cluster import Cluster
from compress.parallel.engine import ATTEMPTS, Crew, Engine, Failure, Work
from compress.parallel.local import Local

__all__ = ["ATTEMPTS", "Cluster", "Crew", "Engine", "Failure", "Local", "Work"]
