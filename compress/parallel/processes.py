"""Data-parallel training of a compressor: processes that each take a share of every batch (accelerate)."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch
from torch import Tensor

from compress.parallel.engine import told
from compress.parallel.workers import exit_with_parent, new_processes

Item = TypeVar("Item")
R = TypeVar("R")

PATIENCE = timedelta(hours=2)  # the others wait so long while the first process validates


@dataclass(frozen=True)
class Processes:
    """This process: number `place`, from 0, of `count` processes that train together."""

    place: int = 0
    count: int = 1

    @classmethod
    def here(cls, device: torch.device) -> Processes:
        """Read the rank set by `accelerate launch`, torchrun or `together`; a single process without them."""
        from accelerate import PartialState  # imported late: it takes a second

        state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints messages."""
        return self.place == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's share of a list that all processes hold. The shares partition the list."""
        return items[self.place :: self.count]

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value, "sum")

    def one_says(self, compute: Callable[[], R]) -> R:
        """Return the first process's result of `compute` in all processes."""
        if self.count == 1:
            return compute()
        from accelerate.utils import broadcast_object_list

        (said,) = broadcast_object_list([compute() if self.first else None])
        return said

    def agree(self, value: Any) -> bool:
        """Return whether all processes have an equal value."""
        if self.count == 1:
            return True
        from accelerate.utils import gather_object

        return all(theirs == value for theirs in gather_object([value]))

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def first_here() -> bool:
    """Return whether this is a single process or a launcher's first one, from the environment variables."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(device: str) -> str:
    """Return the device of this process; processes of a launcher on "cuda" get one GPU each."""
    if device == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def together(work: Callable[[], R], count: int) -> R:
    """Call `work`, which must be picklable, in `count` new processes and return the first one's result.

    The processes run on this machine and end with this process. Raises the exception of a process that
    failed, and OSError if one was killed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"processes={count}: a launcher has started several already; leave it out")
    context = new_processes()
    port, members = free_port(), {}
    try:
        for place in range(count):
            receiver, sender = context.Pipe(duplex=False)
            arguments = work, place, count, port, sender
            member = context.Process(target=_member, args=arguments, daemon=True)
            member.start()
            sender.close()
            members[receiver] = member
        return _first_of(list(members))
    finally:
        for receiver, member in members.items():
            member.kill()
            member.join()
            receiver.close()


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _first_of(receivers: Sequence[Connection]) -> Any:
    said: dict[Connection, Any] = {}
    while len(said) < len(receivers):
        ready = wait([one for one in receivers if one not in said])
        for one in ready:
            said[one] = _heard(one)  # type: ignore[index, arg-type]
        failures = [outcome for outcome in said.values() if isinstance(outcome, Exception)]
        if failures:  # processes that lost a peer fail too: prefer the peer's own error
            late = [_heard(one) for one in receivers if one not in said and one.poll(0.5)]
            failures += [outcome for outcome in late if isinstance(outcome, Exception)]
            raise next((one for one in failures if isinstance(one, OSError | ValueError)), failures[0])
    return said[receivers[0]]


def _heard(receiver: Connection) -> Any:
    try:
        return receiver.recv()
    except EOFError:
        return OSError(
            "a training process was killed, perhaps for lack of memory; the last checkpoint is kept: run "
            "again, with fewer processes or a smaller micro-batch"
        )


def _member(work: Callable[[], Any], place: int, count: int, port: int, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=exit_with_parent, daemon=True).start()
    ranks = {"RANK": place, "WORLD_SIZE": count, "LOCAL_RANK": place, "LOCAL_WORLD_SIZE": count}
    threads = int(os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))))
    os.environ |= {name: str(rank) for name, rank in ranks.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(threads)
    try:
        outcome = work()
    except Exception as problem:  # it is raised in the parent
        outcome = _portable(problem)
    sender.send(outcome if place == 0 or isinstance(outcome, Exception) else None)


def _portable(problem: Exception) -> Exception:
    """Return the exception, or a RuntimeError with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:  # unpickling may raise any error
        return RuntimeError(told(problem))
    return problem
