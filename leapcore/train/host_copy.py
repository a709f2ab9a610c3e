"""Asynchronous copies of numbers from the device to the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ToHost:
    """An asynchronous copy of a few numbers.

    Reading a tensor on a GPU blocks the host until the GPU has finished all its queued work, and then the GPU
    idles until the host gives it more. An asynchronous copy, queued before further work, keeps both busy.

    Args:
        numbers: Scalars on one device, by name.
    """

    def __init__(self, numbers: Mapping[str, Tensor]) -> None:
        self._names = list(numbers)
        there = torch.stack([number.detach().double() for number in numbers.values()])
        self._here, self._sent = there, None
        if there.is_cuda:
            self._here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
            self._here.copy_(there, non_blocking=True)
            self._sent = torch.cuda.current_stream().record_event()

    def arrived(self) -> dict[str, float]:
        """Wait for them."""
        if self._sent is not None:
            self._sent.synchronize()
        return dict(zip(self._names, self._here.tolist(), strict=True))
