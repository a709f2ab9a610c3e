"""Difficulty schedulers: which teacher layer the student learns from, and when it moves on.

A scheduler is told the alignment after every step and the end of every epoch, and answers whether its
target moved. It is plain Python: no tensors, no randomness, the same on every rank.
"""

from __future__ import annotations

import copy
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from leapcore.core.duration import Duration

logger = logging.getLogger(__name__)


class DifficultyScheduler(ABC):
    """Chooses the target layer.

    A change that :meth:`step` makes takes effect from the next step on.

    Args:
        num_layers: How many layers the teacher has.

    Attributes:
        target: Index of the current target layer, 0-based; people are shown it 1-based.
        reason: Why the target last moved, in a word or two.
        alignment: Name of the score that :meth:`step` wants, or None if it wants none.
        wants_calibration: Whether :meth:`start` wants the untrained student's score with every layer.
    """

    alignment: ClassVar[str | None] = None
    wants_calibration: bool = False

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.target = num_layers - 1
        self.reason = ""

    @property
    def wants_score(self) -> bool:
        """Whether :meth:`step` needs an alignment score."""
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
        """Everything that a resumed run needs, as plain numbers and text."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken.

        Raises:
            ValueError: The state belongs to a teacher of another depth.
        """
        if state["num_layers"] != self.num_layers:
            raise ValueError(
                f"the curriculum's state is for a teacher of {state['num_layers']} layers, "
                f"this one has {self.num_layers}"
            )
        vars(self).update(copy.deepcopy(state))

    def _layer_index(self, layer: int, option: str) -> int:
        """The 0-based index of a layer that the user named 1-based."""
        if not 1 <= layer <= self.num_layers:
            raise ValueError(f"{option} is {layer}, but the teacher has layers 1 to {self.num_layers}")
        return layer - 1


class FixedScheduler(DifficultyScheduler):
    """One target for the whole run: the baseline without a curriculum.

    Args:
        num_layers: How many layers the teacher has.
        layer: The target, 1-based, or ``"last"``.
    """

    def __init__(self, num_layers: int, *, layer: Literal["last"] | Annotated[int, Ge(1)] = "last") -> None:
        super().__init__(num_layers)
        if layer != "last":
            self.target = self._layer_index(layer, "layer")

    def step(self, score: float | None) -> bool:
        """Never moves."""
        return False


class AlignmentScheduler(DifficultyScheduler):
    """Advance one layer as soon as the student is aligned with the target (LEAP, arXiv 2606.19483).

    Checked after every step and again at the end of every epoch. At the last layer nothing moves any more.

    Args:
        num_layers: How many layers the teacher has.
        threshold: Advance when the averaged alignment reaches this.
        ema: Weight of the newest score in the average; 1 takes each score as it is. The average
            starts at 0, and again at every advance, without bias correction.
        max_time_per_layer: Advance after this long whatever the alignment; null waits for ever.
        start: The first target, 1-based; ``"calibrate"`` takes the layer that the untrained student
            is most aligned with on the first batch.
        snap_to_last_at: From this layer on (1-based) jump straight to the last; null never jumps.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        threshold: Annotated[float, Gt(0)] = 0.85,
        ema: Annotated[float, Gt(0), Le(1)] = 1.0,
        max_time_per_layer: Duration | None = Duration(5, "ep"),
        start: Literal["calibrate", "first"] | Annotated[int, Ge(1)] = "calibrate",
        snap_to_last_at: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        super().__init__(num_layers)
        self.threshold = threshold
        self.ema_weight = ema
        self.max_time_per_layer = max_time_per_layer
        self.snap_to_last_at = snap_to_last_at
        self.wants_calibration = start == "calibrate"
        self.target = self._layer_index(start, "start") if isinstance(start, int) else 0
        self.ema = 0.0
        self.time_on_layer = {"ep": 0, "st": 0}

    def start(self, scores: Sequence[float] | None) -> None:
        """Take the best-aligned layer, the shallowest of equals; scores that are not finite never win."""
        if self.wants_calibration and scores is not None:
            ranked = [score if math.isfinite(score) else -math.inf for score in scores]
            self.target = ranked.index(max(ranked))
        self._snap()

    def step(self, score: float | None) -> bool:
        """Average the score in, then advance if it is time."""
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
        return {
            "num_layers": self.num_layers,
            "target": self.target,
            "reason": self.reason,
            "ema": self.ema,
            "time_on_layer": dict(self.time_on_layer),
        }

    def _advance_if_due(self) -> bool:
        limit = self.max_time_per_layer
        if self.target == self.num_layers - 1:
            return False
        if self.ema >= self.threshold:
            self._move_to(self.target + 1, f"alignment reached {self.ema:.3f}")
        elif limit is not None and self.time_on_layer[limit.unit] >= limit.amount:
            self._move_to(self.target + 1, "time is up")
        else:
            return False
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


class CkaScheduler(AlignmentScheduler):
    """LEAP with linear CKA, the paper's measure."""

    alignment = "cka"
