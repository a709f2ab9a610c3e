"""The course of the learning rate, as multipliers of its peak."""

from __future__ import annotations

import math

FINAL = 0.001  # LEAP ends its cosine at this share of the peak


def lr_multiplier(step: int, *, total: int, warmup: int, schedule: str) -> float:
    """The multiplier in a step: a linear warm-up that ends at 1, then the schedule.

    Args:
        step: The step's number from 0.
        total: Steps of the whole run.
        warmup: Steps of the warm-up, part of the total.
        schedule: ``"cosine"`` (to 0.001 in the last step) or ``"constant"``.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - warmup - 1))
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * progress))
