"""Schedules of the learning rate, as multipliers of its peak; some restart when the curriculum advances.

Plain Python like the difficulty schedulers: the same on every rank, with a state of a few numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

FLOOR = 0.001  # LEAP's cosine ends at this share of the peak

Peak = Literal["full", "envelope", "gap", "rising_gap"]


class LrSchedule(ABC):
    """Gives the multiplier of the peak learning rate that a step uses."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The multiplier in a step, counted from 0."""

    def advance(self, step: int) -> None:  # noqa: B027  most schedules stay as they are
        """The curriculum advanced in this step; multipliers of later steps may change."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as plain numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        vars(self).update(state)


class WarmupCosine(LrSchedule):
    """Linear warm-up that reaches the peak in its last step, then a cosine to the floor in the run's last.

    Args:
        total: Steps of the run.
        warmup: Steps of the warm-up.
        floor: Where the cosine ends, as a share of the peak.

    Example:
        >>> schedule = WarmupCosine(total=9, warmup=4)
        >>> [round(schedule(step), 2) for step in range(9)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """

    def __init__(self, total: int, warmup: int, *, floor: float = FLOOR) -> None:
        self._total = total
        self._warmup = warmup
        self._floor = floor

    def __call__(self, step: int) -> float:
        """The multiplier in a step."""
        if step < self._warmup:
            return (step + 1) / self._warmup
        return _cosine(step - self._warmup, self._total - self._warmup - 1, floor=self._floor)


class WarmupConstant(LrSchedule):
    """Linear warm-up, then the peak to the end.

    Args:
        warmup: Steps of the warm-up.

    Example:
        >>> [WarmupConstant(warmup=4)(step) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup

    def __call__(self, step: int) -> float:
        """The multiplier in a step."""
        return min(1.0, (step + 1) / self._warmup) if self._warmup else 1.0


class _Segmented(LrSchedule):
    """Begins a new segment at an advance.

    Attributes:
        segment_start: The step in which the present segment began.
        segment_peak: Its peak.
    """

    def __init__(self, start: int) -> None:
        self.segment_start = start
        self.segment_peak = 1.0

    def state_dict(self) -> dict[str, Any]:
        """The segment."""
        return {"segment_start": self.segment_start, "segment_peak": self.segment_peak}


class RestartingCosine(_Segmented):
    """A cosine over the rest of the run that starts again at every advance of the curriculum.

    Advances inside the warm-up do not count. The peak of the new segment is

    - ``full``: the full rate;
    - ``envelope``: what a single cosine over the whole run would have here;
    - ``gap``: the rate before, plus the envelope's share of what is missing to the full rate;
    - ``rising_gap``: the rate before, plus ``scale`` * (1 - envelope) of what is missing: more, the later.

    Args:
        total: Steps of the run.
        warmup: Steps before the first segment.
        peak: Where a new segment starts from.
        scale: For ``rising_gap``, in [0, 1].
        constant_warmup: Stay at the full rate during the warm-up instead of climbing to it from 0.
        floor: Where the cosine ends, as a share of the peak.

    Example:
        >>> schedule = RestartingCosine(total=100, peak="gap")
        >>> before = schedule(50)
        >>> schedule.advance(50)
        >>> round(before, 2), round(schedule(50), 2)
        (0.5, 0.75)
    """

    def __init__(
        self,
        total: int,
        warmup: int = 0,
        *,
        peak: Peak = "full",
        scale: float = 0.5,
        constant_warmup: bool = False,
        floor: float = FLOOR,
    ) -> None:
        super().__init__(start=warmup)
        self._total = total
        self._warmup = warmup
        self._peak = peak
        self._scale = scale
        self._constant_warmup = constant_warmup
        self._floor = floor

    def __call__(self, step: int) -> float:
        """The multiplier in a step."""
        if step < self._warmup:
            return 1.0 if self._constant_warmup else step / self._warmup
        return self._in_segment(step)

    def advance(self, step: int) -> None:
        """Start a new segment, unless the warm-up is still going on."""
        if step < self._warmup:
            return
        self.segment_peak = self._new_peak(step)
        self.segment_start = step

    def _new_peak(self, step: int) -> float:
        before, envelope = self._in_segment(step), _cosine(step, self._total, floor=self._floor)
        return {
            "full": 1.0,
            "envelope": envelope,
            "gap": before + envelope * (1 - before),
            "rising_gap": before + self._scale * (1 - envelope) * (1 - before),
        }[self._peak]

    def _in_segment(self, step: int) -> float:
        length = self._total - self.segment_start
        return _cosine(step - self.segment_start, length, self.segment_peak, self._floor)


class SegmentWarmup(_Segmented):
    """Every segment of the curriculum climbs from 1 % to its peak, then follows a cosine to the run's end.

    Args:
        total: Steps of the run.
        segment_warmup: Steps of each climb, at least 1.
        peak_decay: Share of the peak that each advance takes away.

    Example:
        >>> schedule = SegmentWarmup(total=100, segment_warmup=10, peak_decay=0.5)
        >>> schedule.advance(50)
        >>> [round(schedule(step), 3) for step in (50, 55, 60, 100)]
        [0.01, 0.255, 0.5, 0.001]
    """

    START = 0.01

    def __init__(self, total: int, segment_warmup: int, *, peak_decay: float = 0.0) -> None:
        super().__init__(start=0)
        self._total = total
        self._climb = max(1, segment_warmup)
        self._peak_decay = peak_decay

    def __call__(self, step: int) -> float:
        """The multiplier in a step."""
        in_segment = step - self.segment_start
        if in_segment < self._climb:
            return self.START + (self.segment_peak - self.START) * in_segment / self._climb
        length = self._total - self.segment_start - self._climb
        return _cosine(in_segment - self._climb, length, self.segment_peak)

    def advance(self, step: int) -> None:
        """Climb again, to a lower peak if it decays."""
        self.segment_start = step
        self.segment_peak = max(self.segment_peak * (1 - self._peak_decay), self.START)


def _cosine(step: int, length: int, peak: float = 1.0, floor: float = FLOOR) -> float:
    """Half a cosine from the peak at step 0 to the floor at ``length``, and flat after it."""
    progress = min(1.0, max(0, step) / max(1, length))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
