"""What listeners are told: plain data, the same for the progress bar, TensorBoard and any plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leapcore.spec import Spec


@dataclass(frozen=True)
class ModelFacts:
    """A model as the summary shows it.

    Attributes:
        name: The backbone's model, as the spec names it.
        layers: How many layers it has.
        parameters: How many parameters.
        macs: Multiply-adds of one image through all layers.
    """

    name: str
    layers: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class RunStart:
    """A run that is about to take its first step.

    Attributes:
        spec: The resolved spec.
        folder: Where results go.
        total_steps: Planned number of steps.
        steps_per_epoch: Steps in a whole epoch.
        teacher: Facts about the teacher.
        student: Facts about the student.
        train_images: Size of the training set.
        val_images: Size of the validation set.
    """

    spec: Spec
    folder: Path
    total_steps: int
    steps_per_epoch: int
    teacher: ModelFacts
    student: ModelFacts
    train_images: int
    val_images: int


@dataclass(frozen=True)
class TargetChange:
    """The target moved; layers are counted from 1, 0 stands for "before the start".

    Attributes:
        step: Finished steps; the next one uses the new target.
        previous: The layer until now.
        target: The layer from now on.
        reason: Why, in a word or two.
    """

    step: int
    previous: int
    target: int
    reason: str


@dataclass
class RunReport:
    """What a run achieved, as ``summary.json`` holds it.

    Attributes:
        name: The run's name.
        folder: Where results are.
        status: ``"finished"`` or ``"interrupted"``.
        steps: Finished steps.
        accuracy: Top-1 shares in [0, 1]: knn, linear, linear_best, teacher_knn, teacher_linear.
        flops: spent, baseline (fixed last layer), spent_by_part, in FLOPs (2 per MAC); saved, a share.
        time: Wall time in seconds, of the whole run and of training alone, and images per second.
        curriculum: Every change of target, the first included.
        student: Folder, parameters and the line of Python that loads it.
        teacher: Parameters and depth.
    """

    name: str
    folder: Path
    status: str
    steps: int
    accuracy: dict[str, float]
    flops: dict[str, Any]
    time: dict[str, float]
    student: dict[str, Any]
    teacher: dict[str, Any]
    curriculum: list[TargetChange] = field(default_factory=list)
