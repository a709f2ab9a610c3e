"""Numbers on their way from the device to the host, while the device goes on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ToHost:
    """A copy of a few numbers that is under way.

    To ask a tensor on a GPU for its value makes the host wait until all that was given to the GPU before is
    done, and the GPU then waits for the host. A copy that was sent off early, with work given to the GPU
    behind it, has both of them busy.

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
