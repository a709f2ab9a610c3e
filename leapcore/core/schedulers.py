"""The contract of difficulty schedulers: which teacher layer the student learns from, and when it moves on.

A scheduler gets the alignment after every step, and a call at the end of every epoch; it returns whether its
target moved. It is plain Python: no tensors, no randomness, the same on every rank. Those that follow the
alignment are in ``alignment_schedulers.py``, those that follow the clock in ``clock_schedulers.py``.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge

from leapcore.core.duration import RunLength


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
        alignment: Name of the score that it follows (see ``leapcore.core.alignment``), or None.
        sample_images: Of how many images of a batch the score is measured; None for all.
        wants_calibration: Whether :meth:`start` gets the untrained student's score with every layer.

    Example:
        >>> class TwoStepsEach(DifficultyScheduler):
        ...     def __init__(self, num_layers):
        ...         super().__init__(num_layers)
        ...         self.target = self.steps = 0
        ...
        ...     def step(self, score):
        ...         self.steps += 1
        ...         before, self.target = self.target, min(self.steps // 2, self.num_layers - 1)
        ...         return self.target != before
        >>> scheduler = TwoStepsEach(num_layers=3)
        >>> [(scheduler.target, scheduler.step(None)) for _ in range(5)]
        [(0, False), (0, True), (1, False), (1, True), (2, False)]
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

    def start(self, scores: Sequence[float] | None) -> None:  # noqa: B027  most schedulers need no start
        """Choose the first target, before the first step.

        Args:
            scores: The alignment with each layer, shallow to deep, if :attr:`wants_calibration`.
        """

    @abstractmethod
    def step(self, score: float | None) -> bool:
        """Count a finished step, and move the target if it is time.

        Args:
            score: The alignment of that step's batch, None if it was not measured.

        Returns:
            Whether the target moved.
        """

    def end_epoch(self) -> bool:
        """Count a finished epoch, after its last :meth:`step`. Returns whether the target moved."""
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

    Example:
        >>> FixedScheduler(12).target, FixedScheduler(12, layer=4).target
        (11, 3)
    """

    def __init__(self, num_layers: int, *, layer: Literal["last"] | Annotated[int, Ge(1)] = "last") -> None:
        super().__init__(num_layers)
        if layer != "last":
            self.target = self._layer_index(layer, "layer")

    def step(self, score: float | None) -> bool:
        """Never moves."""
        return False
