"""Difficulty schedulers that follow the alignment: LEAP (arXiv 2606.19483) and its relatives."""

from __future__ import annotations

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from leapcore.core.duration import Duration
from leapcore.core.schedulers import DifficultyScheduler

logger = logging.getLogger(__name__)

_EVERY_AT_LAST = 10  # steps between two measurements at the last layer, which decide nothing


class AlignmentScheduler(DifficultyScheduler):
    """Advance one layer at a time, following the alignment; LEAP (arXiv 2606.19483) and its relatives.

    Checked after every step and again at the end of every epoch. At the last layer nothing moves any more.
    A subclass decides in :meth:`_reached` when the student has learned enough of a layer.

    With ``ema`` w, a score c makes the average ``a' = w c + (1 - w) a``. One score that stands for n steps
    (``measure_every``) weighs as much as n equal ones: ``1 - (1 - w)^n`` in place of w.

    Args:
        num_layers: How many layers the teacher has.
        ema: Weight of one step's score in the average; 1 takes each score as it is (LEAP). The average
            starts at 0, and again at every advance, without bias correction.
        max_time_per_layer: Advance after this long whatever the alignment (LEAP: 5ep); null waits for ever.
        start: The first target, 1-based, or ``first``; ``calibrate`` takes the layer that the untrained
            student is most aligned with on the first batch (LEAP).
        snap_to_last_at: From this layer on (1-based) jump straight to the last (an option of LEAP's code);
            null never jumps.
        sample_images: Measure on the first so many images of a batch; null takes all (LEAP).
        measure_every: Measure in every so many steps only; a score then stands for all of them (LEAP: 1). At
            the last layer, in every tenth at most.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        ema: Annotated[float, Gt(0), Le(1)] = 1.0,
        max_time_per_layer: Duration | None = Duration(5, "ep"),
        start: Literal["calibrate", "first"] | Annotated[int, Ge(1)] = "calibrate",
        snap_to_last_at: Annotated[int, Ge(1)] | None = None,
        sample_images: Annotated[int, Ge(2)] | None = None,
        measure_every: Annotated[int, Ge(1)] = 1,
    ) -> None:
        super().__init__(num_layers)
        self.ema_weight = _weight_of(measure_every, ema)
        self.max_time_per_layer = max_time_per_layer
        self.snap_to_last_at = snap_to_last_at
        self.sample_images = sample_images
        self.measure_every = measure_every
        self.wants_calibration = start == "calibrate"
        self.target = self._layer_index(start, "start") if isinstance(start, int) else 0
        self.ema: float = 0.0
        self.time_on_layer = {"ep": 0, "st": 0}
        self.steps = 0

    @property
    def wants_score(self) -> bool:
        """Whether the next step is one of those that are measured.

        At the last layer the alignment decides nothing any more, and is measured now and then for the curves.
        """
        last = self.target == self.num_layers - 1
        return self.steps % max(self.measure_every, _EVERY_AT_LAST if last else 1) == 0

    @abstractmethod
    def _reached(self) -> str:
        """Why the target is learned well enough, empty if it is not."""

    def start(self, scores: Sequence[float] | None) -> None:
        """Take the best-aligned layer, the shallowest of equals; scores that are not finite never win."""
        if self.wants_calibration and scores is not None:
            ranked = [score if math.isfinite(score) else -math.inf for score in scores]
            self.target = ranked.index(max(ranked))
        self._snap()

    def step(self, score: float | None) -> bool:
        """Average the score in, then advance if it is time."""
        self.steps += 1
        self.time_on_layer["st"] += 1
        if score is not None and math.isfinite(score):
            self.ema = self.ema_weight * score + (1 - self.ema_weight) * self.ema
        elif score is not None:
            logger.warning("alignment is %s in this step; the curriculum skips it", score)
        return self._advance_if_due()

    def end_epoch(self) -> bool:
        """Count the epoch, then advance if it is time."""
        self.time_on_layer["ep"] += 1
        return self._advance_if_due()

    def state_dict(self) -> dict[str, Any]:
        """The target, the average and the clocks; settings belong to the spec."""
        names = ("num_layers", "target", "reason", "ema", "time_on_layer", "steps")
        return {name: copy.deepcopy(getattr(self, name)) for name in names}

    def _advance_if_due(self) -> bool:
        limit = self.max_time_per_layer
        if self.target == self.num_layers - 1:
            return False
        reached = self._reached()
        if not reached and (limit is None or self.time_on_layer[limit.unit] < limit.amount):
            return False
        self.moved_at = self.ema
        self._move_to(self.target + 1, reached or f"time is up after {limit}")
        self._snap()
        return True

    def _snap(self) -> None:
        last = self.num_layers - 1
        if self.snap_to_last_at is not None and self.snap_to_last_at - 1 <= self.target < last:
            self._move_to(last, "snapped to the last")

    def _move_to(self, target: int, reason: str) -> None:
        self.target, self.reason = target, reason
        self.ema = 0.0
        self.time_on_layer = {"ep": 0, "st": 0}


def _weight_of(steps: int, ema: float) -> float:
    """The weight of a score that stands for so many steps: ``1 - (1 - ema)^steps``."""
    weight = 0.0
    for _ in range(steps):
        weight += ema * (1 - weight)
    return weight


class ThresholdScheduler(AlignmentScheduler):
    """Advance as soon as the averaged alignment reaches a threshold (LEAP).

    Args:
        num_layers: How many layers the teacher has.
        threshold: The alignment that is enough; CKA is between 0 and 1, a cosine between -1 and 1
            (LEAP: a CKA of 0.85 on ImageNet-100, 0.8 on ImageNet-1K).
        options: Those of :class:`AlignmentScheduler`.

    Example:
        >>> scheduler = CosineScheduler(12, threshold=0.9, start=3)
        >>> scheduler.alignment, scheduler.step(0.89), scheduler.step(0.91), scheduler.target
        ('cosine', False, True, 3)
    """

    def __init__(self, num_layers: int, *, threshold: Annotated[float, Gt(0)] = 0.85, **options: Any) -> None:
        super().__init__(num_layers, **options)
        self.threshold = threshold

    def _reached(self) -> str:
        return f"alignment reached {self.ema:.3f}" if self.ema >= self.threshold else ""


class CkaScheduler(ThresholdScheduler):
    """LEAP with linear CKA, the paper's measure. Use it by default.

    Args:
        num_layers: How many layers the teacher has.
        unbiased: Take the debiased estimate, for batches with few tokens for the teacher's width.
        options: Those of :class:`ThresholdScheduler`.

    Example:
        >>> scheduler = CkaScheduler(12, threshold=0.8, max_time_per_layer=Duration(4, "st"))
        >>> scheduler.start([0.1, 0.3, 0.2] + [0.0] * 9)  # the second layer is the most aligned one
        >>> for score in (0.5, 0.85, 0.6, 0.7, 0.75, 0.7):
        ...     if scheduler.step(score):
        ...         print(f"layer {scheduler.target + 1}: {scheduler.reason}")
        layer 3: alignment reached 0.850
        layer 4: time is up after 4st
    """

    def __init__(self, num_layers: int, *, unbiased: bool = False, **options: Any) -> None:
        super().__init__(num_layers, **options)
        self.alignment = "unbiased_cka" if unbiased else "cka"


class CosineScheduler(ThresholdScheduler):
    """LEAP with the mean cosine of matching tokens: cheaper than CKA, but it knows no rotation.

    Example:
        >>> scheduler = CosineScheduler(12, threshold=0.7, start="first")
        >>> [scheduler.step(score) for score in (0.2, 0.6, 0.75)], scheduler.target
        ([False, False, True], 1)
    """

    alignment = "cosine"


class PlateauScheduler(AlignmentScheduler):
    """Advance when the alignment stops improving. Use it where no threshold suits all layers.

    Args:
        num_layers: How many layers the teacher has.
        patience: How long the average may go without improving.
        min_gain: Rise of the average that counts as an improvement.
        unbiased: Take the debiased estimate of CKA.
        ema: Weight of one step's score in the average, which starts at 0 at every advance.
        options: Those of :class:`AlignmentScheduler`.

    Example:
        >>> scheduler = PlateauScheduler(12, patience=Duration(2, "st"), ema=1.0, start="first")
        >>> [scheduler.step(score) for score in (0.3, 0.5, 0.5, 0.5)]
        [False, False, False, True]
        >>> scheduler.reason
        'alignment stays at 0.500'
    """

    def __init__(
        self,
        num_layers: int,
        *,
        patience: Duration = Duration(1, "ep"),
        min_gain: Annotated[float, Ge(0)] = 0.01,
        unbiased: bool = False,
        ema: Annotated[float, Gt(0), Le(1)] = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(num_layers, ema=ema, **options)
        self.alignment = "unbiased_cka" if unbiased else "cka"
        self.patience = patience
        self.min_gain = min_gain
        self.best, self.best_at = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Also the best average and when it was reached."""
        return super().state_dict() | {"best": self.best, "best_at": self.best_at}

    def _reached(self) -> str:
        now = self.time_on_layer["st"]
        if self.ema > self.best + self.min_gain:
            self.best, self.best_at = self.ema, now
        waited = now - self.best_at
        return f"alignment stays at {self.ema:.3f}" if waited >= self._patience_steps() else ""

    def _patience_steps(self) -> int:
        return self.patience.in_steps(self.run.steps_per_epoch)

    def _move_to(self, target: int, reason: str) -> None:
        super()._move_to(target, reason)
        self.best, self.best_at = 0.0, 0
