"""The bytes of weights, for digests: of plain tensors, and of tensors from a quantisation library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a plain tensor in memory; ValueError for a tensor without memory."""
    if tensor.is_meta:
        raise ValueError("weights on the device meta have no bytes: load the model on a real device")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def stored_in(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors that make up a tensor, by name: itself, or the parts of a quantised one."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    parts, settings = tensor.__tensor_flatten__()
    for part in parts:
        yield from stored_in(f"{name}.{part} of {type(tensor).__name__} {settings}", getattr(tensor, part))


def stored(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors of a state dictionary, in the order of their names."""
    for name, tensor in sorted(state.items()):
        yield from stored_in(name, tensor)


def parts_of(state: Mapping[str, Tensor]) -> Iterator[str | memoryview]:
    """Yield the names and bytes of a state dictionary, for `compress.files.digest_of`."""
    for name, tensor in stored(state):
        yield name
        yield bytes_of(tensor)
