"""Means over seeds, their intervals, and what is a clear difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: Of the values; NaN if there are none.
        half: Half the width of the interval; NaN for fewer than two values, which have none.
        n: How many values.
    """

    mean: float
    half: float
    n: int

    @property
    def verdict(self) -> str:
        """``higher`` or ``lower`` where the interval leaves 0 out, else ``none``; ``""`` without one."""
        if math.isnan(self.half):
            return ""
        if abs(self.mean) <= self.half:
            return "none"
        return "higher" if self.mean > 0 else "lower"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's t interval of independent values: mean ± t(0.975, n - 1) · s / √n."""
    from scipy.special import stdtrit

    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(n), n)


def paired(values: dict[int, float], baseline: dict[int, float]) -> Estimate:
    """The mean difference to a baseline over the seeds that both have.

    Args:
        values: One per seed.
        baseline: One per seed.
    """
    return estimate([value - baseline[seed] for seed, value in values.items() if seed in baseline])


def paired_saving(values: dict[int, float], baseline: dict[int, float]) -> Estimate:
    """The mean share that is saved against a baseline, ``1 - value / baseline`` seed by seed."""
    return estimate([1 - v / baseline[seed] for seed, v in values.items() if baseline.get(seed, 0) > 0])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, value) that no other beats: cheaper and at least as good, or better and as cheap."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
