"""What optimizers keep besides tensors, as JSON can hold it."""

from __future__ import annotations

from typing import Any

import torch


def plain(value: Any) -> Any:
    """A number, written down as such; of a tensor that holds one, its type, value and kind of device.

    None for tensors with axes, which go into a file of tensors.
    """
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if not torch.is_tensor(value):
        return value
    if value.ndim:
        return None
    return {"tensor": [str(value.dtype).removeprefix("torch."), value.item(), value.device.type]}


def restored(value: Any) -> Any:
    """Undo :func:`plain`; a clock that was on a GPU and comes to a machine without one stays on the host."""
    if isinstance(value, list):  # JSON has no tuples, which is what optimizers keep pairs such as betas in
        return tuple(value)
    if not isinstance(value, dict):
        return value
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    kind, number, device = value["tensor"]
    if device == "cuda" and not torch.cuda.is_available():
        device = "cpu"
    return torch.tensor(number, dtype=getattr(torch, kind), device=device)


def size(value: Any) -> float:
    """A number as :func:`plain` wrote it, to compare it."""
    return float(value["tensor"][1] if isinstance(value, dict) else value)
