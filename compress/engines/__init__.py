"""Where the jobs of a long campaign are done: on this machine, or on a Ray cluster, with equal results."""

from compress.engines.base import ATTEMPTS, Crew, Engine, Failure, Work
from compress.engines.cluster import Cluster
from compress.engines.local import Local

ENGINES = {engine.name: engine for engine in (Local, Cluster)}

__all__ = ["ATTEMPTS", "ENGINES", "Cluster", "Crew", "Engine", "Failure", "Local", "Work"]
