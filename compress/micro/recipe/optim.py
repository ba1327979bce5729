"""The optimiser and the resumable training loop of all stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compress.files import replacing


class Optimiser:
    """Muon for the matrices inside the blocks, AdamW for everything else.

    Learning rates warm up, stay at their peak until step `steady`, then fall along a cosine to 1/50 at step
    `total`. With `shared` all processes of the torch.distributed group average their gradients.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        matrix_lr: float,
        total: int,
        steady: int = 100,
        warmup: int = 100,
        shared: bool = False,
    ) -> None:
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            inside = p.ndim == 2 and ("layers." in name or "blocks." in name)
            (matrices if inside else rest).append(p)
        self.total, self.steady, self.warmup, self.shared = total, max(steady, warmup), warmup, shared
        self.parameters = [*matrices, *rest]
        self.parts = [
            torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=0.01),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self.peaks = [matrix_lr, lr]

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = max(0, step - self.steady) / max(1, self.total - self.steady)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def step(self, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; lower the learning rate")
        loss.backward()
        if self.shared and world() > 1:
            self._share_gradients()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * self.rate(step)
            part.step()
            part.zero_grad(set_to_none=True)

    def _share_gradients(self) -> None:
        """Average gradients over the processes, each of which has a part of the batch."""
        flat = torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        at = 0
        for p in self.parameters:
            if p.grad is not None:
                p.grad.copy_(flat[at : at + p.numel()].view_as(p))
                at += p.numel()

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Wait until all processes that train together reach this call."""
    if dist.is_initialized():
        dist.barrier()


def checkpointed(
    path: Path, module: nn.Module, optimiser: Optimiser, total: int, every: int
) -> Iterator[int]:
    """Yield the remaining steps.

    Module and optimiser are saved to `path`, atomically, every `every` steps and at the end.
    """
    start = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        module.load_state_dict(saved["module"])
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
    for step in range(start, total):
        yield step
        if rank() == 0 and ((step + 1) % every == 0 or step + 1 == total):
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            with replacing(path) as part:
                torch.save(state, part)
