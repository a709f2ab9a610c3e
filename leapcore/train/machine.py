"""What a run ran on."""

from __future__ import annotations

import platform
from typing import Any

import torch

from leapcore._version import __version__
from leapcore.compat import import_deepspeed, import_timm


def machine(processes: int, device: torch.device) -> dict[str, Any]:
    """Versions, device and sizes that a summary holds, for whoever compares it with another.

    Args:
        processes: How many share the work.
        device: Where this one computes.
    """
    gpu = device.type == "cuda"
    return {
        "leapcore": __version__,
        "torch": str(torch.__version__),
        "timm": import_timm().__version__,
        "deepspeed": import_deepspeed().__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if gpu else device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
    }
