"""Difficulty schedulers that follow the clock instead of the alignment."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge

from leapcore.core.duration import Duration
from leapcore.core.schedulers import DifficultyScheduler


class ClockScheduler(DifficultyScheduler):
    """The target is a function of the number of finished steps.

    Args:
        num_layers: How many layers the teacher has.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(num_layers)
        self.steps = 0

    @abstractmethod
    def _target_after(self, steps: int) -> int:
        """The 0-based target of the step that follows so many finished ones."""

    def start(self, scores: Sequence[float] | None) -> None:
        """Take the first target."""
        self.target = self._target_after(0)

    def step(self, score: float | None) -> bool:
        """Count the step."""
        self.steps += 1
        before, self.target = self.target, self._target_after(self.steps)
        self.reason = "by the clock"
        return self.target != before

    def state_dict(self) -> dict[str, Any]:
        """The target and the clock; settings belong to the spec."""
        return {name: getattr(self, name) for name in ("num_layers", "target", "reason", "steps")}


class LinearScheduler(ClockScheduler):
    """A uniform pace: every layer is the target equally long. The control for "does adapting help?".

    Args:
        num_layers: How many layers the teacher has.
        start: The first target, 1-based, or ``first``.
        duration: When the last layer's share ends; null for the whole run. After it the target stays.

    Example:
        >>> from leapcore.core.duration import RunLength
        >>> scheduler = LinearScheduler(3)
        >>> scheduler.run = RunLength(total_steps=6, steps_per_epoch=2)
        >>> scheduler.start(None)
        >>> [(scheduler.target, scheduler.step(None)) for _ in range(6)]
        [(0, False), (0, True), (1, False), (1, True), (2, False), (2, False)]
    """

    def __init__(
        self,
        num_layers: int,
        *,
        start: Literal["first"] | Annotated[int, Ge(1)] = "first",
        duration: Duration | None = None,
    ) -> None:
        super().__init__(num_layers)
        self.first = self._layer_index(start, "start") if isinstance(start, int) else 0
        self.duration = duration

    def _target_after(self, steps: int) -> int:
        length = self.run.total_steps
        if self.duration is not None:
            length = self.duration.in_steps(self.run.steps_per_epoch)
        climbed = steps * (self.num_layers - self.first) // max(1, length)
        return min(self.first + climbed, self.num_layers - 1)


class StepsScheduler(ClockScheduler):
    """Given layers at given times, for a curriculum known beforehand.

    Args:
        num_layers: How many layers the teacher has.
        at: Time to layer, 1-based: ``{0ep: 1, 10ep: 6, 30ep: 12}``. Before the first time its layer
            is the target, too.

    Example:
        >>> scheduler = StepsScheduler(12, at={Duration(0, "st"): 1, Duration(3, "st"): 6})
        >>> scheduler.start(None)
        >>> [(scheduler.target + 1, scheduler.step(None)) for _ in range(4)]
        [(1, False), (1, False), (1, True), (6, False)]
    """

    samples = ({"at": {"0ep": 1}},)  # what the contract is checked with, since ``at`` has no default

    def __init__(self, num_layers: int, *, at: dict[Duration, Annotated[int, Ge(1)]]) -> None:
        super().__init__(num_layers)
        if not at:
            raise ValueError("at names no layer")
        self.at = {time: self._layer_index(layer, "at") for time, layer in at.items()}

    def _target_after(self, steps: int) -> int:
        per_epoch = self.run.steps_per_epoch
        times = sorted((time.in_steps(per_epoch), layer) for time, layer in self.at.items())
        return next((layer for time, layer in reversed(times) if time <= steps), times[0][1])


class RandomScheduler(ClockScheduler):
    """A layer drawn at random every so often. The control for "does the order help?".

    Args:
        num_layers: How many layers the teacher has.
        every: How long a draw holds.
        seed: Seed of these draws alone, which depend on nothing else.
        duration: For how long layers are drawn; after it the last one is the target. Null for the whole run.

    Example:
        >>> scheduler = RandomScheduler(12, every=Duration(2, "st"), duration=Duration(6, "st"))
        >>> scheduler.start(None)
        >>> [(scheduler.target, scheduler.step(None))[0] for _ in range(8)]
        [5, 5, 9, 9, 5, 5, 11, 11]
    """

    def __init__(
        self,
        num_layers: int,
        *,
        every: Duration = Duration(1, "ep"),
        seed: Annotated[int, Ge(0)] = 0,
        duration: Duration | None = None,
    ) -> None:
        super().__init__(num_layers)
        self.every = every
        self.seed = seed
        self.duration = duration

    def _target_after(self, steps: int) -> int:
        if self.duration is not None and steps >= self.duration.in_steps(self.run.steps_per_epoch):
            return self.num_layers - 1
        draw = steps // max(1, self.every.in_steps(self.run.steps_per_epoch))
        return random.Random(f"{self.seed}/{draw}").randrange(self.num_layers)
