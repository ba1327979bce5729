"""Engines that run the jobs of a long campaign on this machine or a Ray cluster, with equal results."""

from typing import TYPE_CHECKING

from compress.lazy import lazy

if TYPE_CHECKING:
    from compress.parallel.cluster import Cluster as Cluster
    from compress.parallel.devices import Devices as Devices
    from compress.parallel.engine import ATTEMPTS as ATTEMPTS
    from compress.parallel.engine import Engine as Engine
    from compress.parallel.engine import Failure as Failure
    from compress.parallel.engine import Work as Work
    from compress.parallel.engine import WorkerPool as WorkerPool
    from compress.parallel.local import Local as Local

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "cluster": ("Cluster",),
        "devices": ("Devices",),
        "engine": ("ATTEMPTS", "WorkerPool", "Engine", "Failure", "Work"),
        "local": ("Local",),
    },
)
