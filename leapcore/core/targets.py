"""Kinds of target: which layers of student and teacher a step compares."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

from leapcore.core.objective import TargetName


class LayerPair(NamedTuple):
    """A layer of the student and the layer of the teacher that it learns from, as indices.

    Attributes:
        student: Index of the student's layer.
        teacher: Index of the teacher's layer.
    """

    student: int
    teacher: int


class Target(ABC):
    """Turns the curriculum's layer into pairs of layers.

    Args:
        student_layers: How many layers the student has.
        teacher_layers: How many layers the teacher has.

    Attributes:
        choices: From how many of the teacher's layers, counted from the first, the curriculum chooses.
    """

    def __init__(self, student_layers: int, teacher_layers: int) -> None:
        self.student_layers = student_layers
        self.teacher_layers = teacher_layers
        self.choices = teacher_layers

    @abstractmethod
    def pairs(self, layer: int) -> list[LayerPair]:
        """The pairs while ``layer`` is the curriculum's target.

        Their number and the student's layers are the same for every ``layer``, since each pair has a
        projector of its own. The alignment is measured on the first.
        """


class OneLayer(Target):
    """The student's last layer learns from the target layer (LEAP).

    Example:
        >>> OneLayer(student_layers=6, teacher_layers=12).pairs(3)
        [LayerPair(student=5, teacher=3)]
    """

    def pairs(self, layer: int) -> list[LayerPair]:
        """One pair."""
        return [LayerPair(self.student_layers - 1, layer)]


class LayerAndLast(Target):
    """The student's last layer learns from the target layer and from the teacher's last one.

    The authors concatenate both and project with a head of twice the width. That is the same as two
    heads side by side, and the mean of their losses.

    Raises:
        ValueError: The teacher has only one layer.

    Example:
        >>> LayerAndLast(student_layers=6, teacher_layers=12).pairs(3)
        [LayerPair(student=5, teacher=3), LayerPair(student=5, teacher=11)]
    """

    def __init__(self, student_layers: int, teacher_layers: int) -> None:
        super().__init__(student_layers, teacher_layers)
        self.choices = teacher_layers - 1
        if self.choices == 0:
            raise ValueError("the teacher has one layer, which is its last")

    def pairs(self, layer: int) -> list[LayerPair]:
        """The target layer's pair, then the last layer's."""
        last = self.student_layers - 1
        return [LayerPair(last, layer), LayerPair(last, self.teacher_layers - 1)]


class AllLayers(Target):
    """Every layer of the student learns from the teacher's layer at the same relative depth, at once.

    Layer s of S, counted from 1, learns from layer ``ceil(s T / S)`` of T, so that the last learns from the
    last. At equal depths that is one to one, as in the authors' baseline, which has no other case.

    Example:
        >>> [pair.teacher for pair in AllLayers(student_layers=4, teacher_layers=10).pairs(0)]
        [2, 4, 7, 9]
    """

    def pairs(self, layer: int) -> list[LayerPair]:
        """A pair for each of the student's layers, whatever the curriculum's target is."""
        depth, teacher_depth = self.student_layers, self.teacher_layers
        return [LayerPair(s - 1, math.ceil(s * teacher_depth / depth) - 1) for s in range(1, depth + 1)]


TARGETS: dict[TargetName, type[Target]] = {"layer": OneLayer, "layer+last": LayerAndLast, "all": AllLayers}
