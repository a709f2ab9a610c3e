"""Difficulty schedulers: which teacher layer the student learns from, and when it moves on.

A scheduler is told the alignment after every step and the end of every epoch, and answers whether its
target moved. It is plain Python: no tensors, no randomness, the same on every rank.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from leapcore.core.duration import Duration, RunLength

logger = logging.getLogger(__name__)

_FOR_THE_RECORD = 10  # steps between two measurements that decide nothing


class DifficultyScheduler(ABC):
    """Chooses the target layer.

    A change that :meth:`step` makes takes effect from the next step on.

    Args:
        num_layers: How many layers the teacher has.

    Attributes:
        target: Index of the current target layer, 0-based; people are shown it 1-based.
        reason: Why the target last moved, in a word or two.
        run: The run's length, which the engine sets before :meth:`start`.
        ema: The averaged alignment that it decides by; None for one that averages none.
        moved_at: That average when the target last moved.
        alignment: Name of the score that it listens to (see ``leapcore.core.alignment``), or None.
        sample_images: Of how many images of a batch the score is measured; None for all.
        wants_calibration: Whether :meth:`start` is given the untrained student's score with every layer.
    """

    ema: float | None = None
    moved_at: float | None = None
    alignment: str | None = None
    sample_images: int | None = None
    wants_calibration: bool = False
    run = RunLength(total_steps=1, steps_per_epoch=1)

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.target = num_layers - 1
        self.reason = ""

    @property
    def wants_score(self) -> bool:
        """Whether the next :meth:`step` needs an alignment score."""
        return self.alignment is not None

    def start(self, scores: Sequence[float] | None) -> None:  # noqa: B027  most have nothing to do
        """Choose the first target, before the first step.

        Args:
            scores: The alignment with each layer, shallow to deep, if :attr:`wants_calibration`.
        """

    @abstractmethod
    def step(self, score: float | None) -> bool:
        """Take note of a finished step.

        Args:
            score: The alignment of that step's batch, None if it was not measured.

        Returns:
            Whether the target moved.
        """

    def end_epoch(self) -> bool:
        """Take note of a finished epoch, after its last :meth:`step`. Returns whether the target moved."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as plain numbers and text.

        By default all attributes, without those named like an argument of a constructor: these are
        settings, which belong to the spec.
        """
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, DifficultyScheduler)]
        settings = {"run"}.union(*(inspect.signature(kind).parameters for kind in kinds)) - {"num_layers"}
        return {name: value for name, value in vars(self).items() if name not in settings}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: The state belongs to a teacher of another depth.
        """
        if state["num_layers"] != self.num_layers:
            raise ValueError(
                f"the curriculum's state is for a choice of {state['num_layers']} layers, "
                f"this one chooses from {self.num_layers}"
            )
        vars(self).update(copy.deepcopy(state))

    def _layer_index(self, layer: int, option: str) -> int:
        """The 0-based index of a layer that the user named 1-based."""
        if not 1 <= layer <= self.num_layers:
            raise ValueError(
                f"{option} is {layer}, but the curriculum chooses from layers 1 to {self.num_layers}"
            )
        return layer - 1


class FixedScheduler(DifficultyScheduler):
    """One target for the whole run: the baseline without a curriculum.

    Args:
        num_layers: How many layers the teacher has.
        layer: The target, 1-based, or ``last``.
    """

    def __init__(self, num_layers: int, *, layer: Literal["last"] | Annotated[int, Ge(1)] = "last") -> None:
        super().__init__(num_layers)
        if layer != "last":
            self.target = self._layer_index(layer, "layer")

    def step(self, score: float | None) -> bool:
        """Never moves."""
        return False


class AlignmentScheduler(DifficultyScheduler):
    """Advance one layer at a time, listening to the alignment; LEAP (arXiv 2606.19483) and its relatives.

    Checked after every step and again at the end of every epoch. At the last layer nothing moves any more.
    A subclass says in :meth:`_reached` when the student has learned enough of a layer.

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
        self.ema_weight = _weight_over(measure_every, ema)
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

        At the last layer the alignment decides nothing any more, and is measured now and then for the record.
        """
        last = self.target == self.num_layers - 1
        return self.steps % max(self.measure_every, _FOR_THE_RECORD if last else 1) == 0

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


def _weight_over(steps: int, ema: float) -> float:
    """The weight of a score that comes in so many steps in a row, together."""
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
    """

    def __init__(self, num_layers: int, *, unbiased: bool = False, **options: Any) -> None:
        super().__init__(num_layers, **options)
        self.alignment = "unbiased_cka" if unbiased else "cka"


class CosineScheduler(ThresholdScheduler):
    """LEAP with the mean cosine of matching tokens: cheaper than CKA, but it knows no rotation."""

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
