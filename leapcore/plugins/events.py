"""What listeners receive: plain data, the same for the progress bar, TensorBoard and any plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from leapcore.spec import Spec


def figure_name(figure: str, teacher: str, teachers: Sized) -> str:
    """A figure that belongs to one teacher, named after it where a run has several: ``alignment/dino``."""
    return figure if len(teachers) == 1 else f"{figure}/{teacher}"


def per_teacher(figures: dict[str, Any], teacher: str, teachers: Sized) -> dict[str, Any]:
    """One teacher's figures under their :func:`figure_name`."""
    return {figure_name(figure, teacher, teachers): value for figure, value in figures.items()}


@dataclass(frozen=True)
class ModelFacts:
    """A model as the summary shows it.

    Attributes:
        name: The backbone's model, as the spec or its weights name it.
        layers: How many layers it has.
        parameters: How many parameters.
        macs: Multiply-adds of one image through all layers.
        weights: Where its first weights come from, as the spec says.
        widths: Channels of the first and of the last layer.
        grids: Rows and columns of tokens in the first and in the last layer; None where they have no places.
        tokens: Tokens of the last layer, prefix tokens left out.
        prefix_tokens: Class token and registers.
        image_size: Height and width of its input, in pixels.
        mean: What is subtracted from each colour channel of pixels in [0, 1].
        std: What they are divided by.
    """

    name: str
    layers: int
    parameters: int
    macs: int
    weights: str
    widths: tuple[int, int]
    grids: tuple[tuple[int, int] | None, tuple[int, int] | None]
    tokens: int
    prefix_tokens: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class StepForecast(Protocol):
    """What the steps that are left will cost, as :class:`leapcore.runs.forecast.Forecast` knows it."""

    def cost(self, targets: Mapping[str, int]) -> float:
        """What a step costs with these targets, each teacher's 0-based index."""

    def left(self, done: int) -> Iterable[tuple[int, float]]:
        """After so many steps: how many are left of which cost, in their order."""


@dataclass(frozen=True)
class RunStart:
    """A run that is about to take its first step.

    Attributes:
        spec: The resolved spec.
        folder: Where results go.
        total_steps: Planned number of steps.
        steps_per_epoch: Steps in a whole epoch.
        teachers: Facts about each teacher, by its name.
        student: Facts about the student.
        train_images: Size of the training set.
        val_images: Size of the validation set.
        step: Finished steps; more than 0 where the run goes on from a checkpoint.
        targets: Each teacher's layer there, counted from 1.
        forecast: What the steps that are left will cost; it follows the run.
        deepest: The deepest layer of each teacher that its curriculum may choose, counted from 1.
        links: Where to look at this run, by listener; a listener adds its own.
    """

    spec: Spec
    folder: Path
    total_steps: int
    steps_per_epoch: int
    teachers: dict[str, ModelFacts]
    student: ModelFacts
    train_images: int
    val_images: int
    step: int = 0
    targets: dict[str, int] = field(default_factory=dict)
    forecast: StepForecast | None = None
    deepest: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    @property
    def thresholds(self) -> dict[str, float | None]:
        """The alignment that each teacher's curriculum waits for, None where it waits for none."""
        curricula = self.spec.curricula.items()
        return {name: curriculum.options.get("threshold") for name, curriculum in curricula}


@dataclass(frozen=True)
class TargetChange:
    """The target moved; layers are counted from 1, 0 stands for "before the start".

    ``metrics.jsonl`` holds it as a line whose ``event`` is ``target_changed``.

    Attributes:
        step: Finished steps; the next one uses the new target.
        previous: The layer until now.
        target: The layer from now on.
        reason: Why, in a word or two.
        teacher: Whose layer it is, by its name in the spec.
        alignment: The averaged alignment that the curriculum had seen until then, None if it averages none.
        flops_saved: Share of the baseline's FLOPs saved so far.
    """

    step: int
    previous: int
    target: int
    reason: str = ""
    teacher: str = "teacher"
    alignment: float | None = None
    flops_saved: float = 0.0


@dataclass(frozen=True)
class CkaMap:
    """How alike the layers of the student and of one teacher are, at one moment.

    ``cka_maps.jsonl`` holds it as a line, with its step.

    Attributes:
        teacher: The teacher, by its name in the spec.
        images: How many images were looked at.
        student_layers: Names of the student's layers, shallow to deep.
        teacher_layers: Names of the teacher's.
        cka: Linear CKA by student layer, then teacher layer: (student layers, teacher layers).

    Raises:
        ValueError: ``cka`` has another shape.
    """

    teacher: str = "teacher"
    images: int = 0
    student_layers: list[str] = field(default_factory=list)
    teacher_layers: list[str] = field(default_factory=list)
    cka: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        columns = {len(row) for row in self.cka}
        if columns != {len(self.teacher_layers)} or len(self.cka) != len(self.student_layers):
            raise ValueError("cka needs a row per student layer and a column per teacher layer")


@dataclass
class RunReport:
    """What a run achieved. ``summary.json`` holds it; read from there, what it lacks has the default.

    Attributes:
        name: The run's name.
        folder: Where results are.
        status: ``"finished"``, ``"interrupted"`` or ``"failed"``; ``"trained"`` while only the last
            evaluations are missing.
        steps: Finished steps.
        accuracy: Top-1 shares in [0, 1]: knn, linear (last epoch), linear_best, linear_top5, teacher_knn, …;
            of retrieval folders easy_map/<name>, easy_mp1/<name>, …
        flops: spent, baseline (fixed last layer), spent_by_part, in FLOPs (2 per MAC); saved, a share.
        time: Wall time in seconds, of the whole run and of training alone, and images per second.
        curriculum: Every change of target, the first included.
        student: Folder, parameters and the line of Python that loads it.
        teachers: Parameters and depth of each teacher, by its name.
        machine: Versions of leapcore, torch, timm, deepspeed and python; platform, device (a GPU's name, or
            cpu), processes and threads. Empty in a summary of an earlier leapcore.
        links: Where listeners keep the run, by their names.
        error: Why it failed; empty in a summary of an earlier leapcore.

    Example:
        >>> from leapcore import RunReport
        >>> report = RunReport(name="small", status="finished", steps=60, accuracy={"knn": 0.97})
        >>> f"{report.name}: {report.status} after {report.steps} steps, kNN {report.accuracy['knn']:.0%}"
        'small: finished after 60 steps, kNN 97%'
    """

    name: str = ""
    folder: Path = Path()
    status: str = ""
    steps: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    flops: dict[str, Any] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    teachers: dict[str, dict[str, int]] = field(default_factory=dict)
    curriculum: list[TargetChange] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    error: str = ""
