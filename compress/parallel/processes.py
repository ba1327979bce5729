"""Processes that train one compressor together, each on its share of every batch, through accelerate."""

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

PATIENCE = timedelta(hours=2)  # for the first process, which validates while the others wait


@dataclass(frozen=True)
class Processes:
    """This process, the `place`-th of `count` that train together."""

    place: int = 0
    count: int = 1

    @classmethod
    def here(cls, device: torch.device) -> Processes:
        """As `accelerate launch`, torchrun or `together` started this process; alone otherwise."""
        from accelerate import PartialState  # not at the top: a second of import

        state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
        return cls(state.process_index, state.num_processes)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.place == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """What this process has to do of a list that all of them have; all shares together are the list."""
        return items[self.place :: self.count]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value, "sum")

    def one_says(self, compute: Callable[[], R]) -> R:
        """What the first process computes, in all of them."""
        if self.count == 1:
            return compute()
        from accelerate.utils import broadcast_object_list

        (said,) = broadcast_object_list([compute() if self.first else None])
        return said

    def agree(self, value: Any) -> bool:
        """Whether all processes have an equal value."""
        if self.count == 1:
            return True
        from accelerate.utils import gather_object

        return all(theirs == value for theirs in gather_object([value]))

    def wait(self) -> None:
        """Until all have come this far."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def first_here() -> bool:
    """Whether this process is alone or the first of those that a launcher started, by its environment."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(device: str) -> str:
    """The device of this process: of several on "cuda" each takes its own."""
    if device == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


def together(work: Callable[[], R], count: int) -> R:
    """Call `work`, which can be pickled, in `count` new processes on this machine; what the first returns.

    They end when this process does. Raises what the first that failed has raised, and OSError if one was
    killed.
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
    """A port of this machine that nobody listens on."""
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
        if failures:  # whoever lost its peer fails too: the peer's end is what matters
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
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
    """The exception, or one in its words if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:  # whatever keeps it from being made again
        return RuntimeError(told(problem))
    return problem
