"""Where the jobs of a long campaign are done: on this machine, or on a Ray cluster, with equal results."""

from compress.engines.base import ATTEMPTS, Crew, Engine, Failure, Work
from compress.engines.cluster import Cluster
from compress.engines.local import Local

__all__ = ["ATTEMPTS", "Cluster", "Crew", "Engine", "Failure", "Local", "Work"]
