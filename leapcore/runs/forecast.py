"""What the steps that are left will cost: where each target will be, and how long its steps take.

The scores to come are not known. The forecast is the walk without any: only the clock moves the target (a
time limit, patience, a pace). A student that is quicker moves on earlier, and the forecast is made again.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from leapcore.core.schedulers import DifficultyScheduler

# Weight of the prior that a step takes no time but for its FLOPs, in steps.
DOUBT = 2


class Stay(NamedTuple):
    """Steps in a row with one target.

    Attributes:
        target: The 0-based index of the layer.
        steps: How many.
        measured: In how many of them the scheduler wants the alignment.
    """

    target: int
    steps: int
    measured: int


def course(scheduler: DifficultyScheduler, done: int = 0) -> list[Stay]:
    """The walk that a scheduler will take from where it is, if no score comes any more.

    Args:
        scheduler: With its ``run`` set, and started; a copy of it is taken through the run.
        done: Finished steps of the run.

    Example:
        >>> from leapcore.core.clock_schedulers import LinearScheduler
        >>> from leapcore.core.duration import RunLength
        >>> scheduler = LinearScheduler(3)
        >>> scheduler.run = RunLength(total_steps=90, steps_per_epoch=10)
        >>> course(started_at(scheduler))
        [Stay(target=0, steps=30, measured=0), Stay(target=1, steps=30, measured=0),
         Stay(target=2, steps=30, measured=0)]
    """
    steps = _simulated(copy.deepcopy(scheduler), done)
    stays = []
    for target, group in itertools.groupby(steps, key=lambda step: step[0]):
        measured = [is_measured for _, is_measured in group]
        stays.append(Stay(target, len(measured), sum(measured)))
    return stays


def _simulated(scheduler: DifficultyScheduler, done: int) -> Iterator[tuple[int, bool]]:
    """Each step's target, and whether it is measured, in the order of the training loop."""
    length = scheduler.run
    for step in range(done + 1, length.total_steps + 1):
        yield scheduler.target, scheduler.wants_score
        scheduler.step(None)
        if step % length.steps_per_epoch == 0:
            scheduler.end_epoch()


def started_at(scheduler: DifficultyScheduler, layer: int | None = None) -> DifficultyScheduler:
    """A copy of a scheduler before its first step, as if its calibration had chosen a layer.

    Args:
        scheduler: Not started yet.
        layer: A 0-based index, for one that wants a calibration.
    """
    copied = copy.deepcopy(scheduler)
    scores = None if layer is None else [float(index == layer) for index in range(scheduler.num_layers)]
    copied.start(scores)
    return copied


@dataclass
class StepTimes:
    """Seconds of a step as a line over its FLOPs, fitted to the steps so far.

    The line is ``time = fixed + slope * cost``. With few steps, a step's time is taken to be proportional to
    its FLOPs: the line goes through the origin, and moves up as steps of other costs are seen (a ridge on
    the intercept alone, of weight ``DOUBT``).

    Attributes:
        seen: By cost, the number of steps and their seconds.
    """

    seen: dict[float, tuple[int, float]] = field(default_factory=dict)

    def note(self, cost: float, steps: int, seconds: float) -> None:
        """Record so many steps of one cost and the seconds that they took together."""
        count, before = self.seen.get(cost, (0, 0.0))
        self.seen[cost] = (count + steps, before + seconds)

    def of(self, cost: float) -> float:
        """The seconds that a step of this cost will take; 0 before the first is noted."""
        fixed, slope = self._line()
        return fixed + slope * cost

    def _line(self) -> tuple[float, float]:
        """Of all steps ``min sum (time - f - s cost)^2 + DOUBT f^2``; neither f nor s is below 0."""
        n = sum(count for count, _ in self.seen.values())
        cost = sum(count * cost for cost, (count, _) in self.seen.items())
        square = sum(count * cost * cost for cost, (count, _) in self.seen.items())
        time = sum(seconds for _, seconds in self.seen.values())
        product = sum(cost * seconds for cost, (_, seconds) in self.seen.items())
        if not square:
            return time / n if n else 0.0, 0.0
        fixed = (time * square - cost * product) / ((n + DOUBT) * square - cost * cost)
        if fixed <= 0:
            return 0.0, product / square
        slope = (product - fixed * cost) / square
        return (fixed, slope) if slope > 0 else (time / n, 0.0)


class Forecast:
    """The steps of a run that are left, and what each of them costs.

    Args:
        schedulers: Each teacher's, which the run goes on to move; asked anew only where it did not keep to
            what was expected of it.
        costs: What a step costs for each of a teacher's layers, in any unit.
        others: What it costs besides.
    """

    def __init__(
        self,
        schedulers: Mapping[str, DifficultyScheduler],
        costs: Mapping[str, Sequence[float]],
        others: float,
    ) -> None:
        self._schedulers = schedulers
        self._costs = costs
        self._others = others
        self._walks: dict[str, list[tuple[int, int]]] = {}

    def cost(self, targets: Mapping[str, int]) -> float:
        """What a step costs with these targets, each teacher's 0-based index."""
        return self._others + sum(self._costs[name][target] for name, target in targets.items())

    def left(self, done: int) -> Iterator[tuple[int, float]]:
        """How many steps are left of which cost, in their order.

        Args:
            done: Finished steps.
        """
        for steps, targets in together({name: self._ends(name, done) for name in self._schedulers}, done):
            yield steps, self.cost(targets)

    def _ends(self, name: str, done: int) -> list[tuple[int, int]]:
        """The last step of each stay, with its target."""
        walk, scheduler = self._walks.get(name, []), self._schedulers[name]
        # At the end of an epoch, this may be called before the scheduler's `end_epoch`.
        if scheduler.target not in (_target_in(done, walk), _target_in(done + 1, walk)):
            self._walks[name] = walk = ends(course(scheduler, done), done)
        return walk


def ends(stays: Sequence[Stay], done: int = 0) -> list[tuple[int, int]]:
    """The last step of each stay, with its target."""
    lasts = itertools.accumulate((stay.steps for stay in stays), initial=done)
    return [(last, stay.target) for last, stay in zip(itertools.islice(lasts, 1, None), stays, strict=True)]


def together(
    walks: Mapping[str, Sequence[tuple[int, int]]], done: int = 0
) -> Iterator[tuple[int, dict[str, int]]]:
    """How many steps in a row have which targets, where several teachers walk at the same time.

    Args:
        walks: Each teacher's :func:`ends`.
        done: Finished steps.
    """
    for step in sorted({end for walk in walks.values() for end, _ in walk if end > done}):
        yield step - done, {name: _target_in(step, walk) for name, walk in walks.items()}
        done = step


def _target_in(step: int, walk: Sequence[tuple[int, int]]) -> int:
    return next((target for end, target in walk if end >= step), -1)
