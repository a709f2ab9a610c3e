"""What a step costs while each layer is the target: one table, counted once when a run is built.

The ledger records its rows, and plan and forecast read them; nothing is counted while a run trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from leapcore.core.batch_alignment import BatchAlignment
from leapcore.core.distiller import Distiller
from leapcore.core.features import LayerFeatures, on_common_grid
from leapcore.core.flops import STUDENT_STEP, FlopsLedger, count_layer_macs, count_macs
from leapcore.core.layer_check import layer_shapes
from leapcore.core.matching import Match, StudentFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.runs.forecast import Forecast

TOKENS_PER_CHANNEL = 4  # below which biased CKA of unrelated features exceeds about 0.2


@dataclass(frozen=True)
class TeacherCosts:
    """What one teacher costs; each list has an entry per layer that may be its target, shallow to deep.

    Attributes:
        teacher: MACs per image of the teacher's pass, its patch embedding for a loss on that included.
        heads: MACs per image of the student's projectors, forward.
        scores: MACs of measuring the alignment of a batch once; 0 where the scheduler measures none.
        tokens: On how many tokens it is measured.
        widths: How many channels these have.
        biased: Whether it is an alignment that few tokens make too high.
        all_layers: MACs per image of one pass that yields every layer, as a calibration needs it.
        whole: MACs per image of the backbone.
    """

    teacher: list[int]
    heads: list[int]
    scores: list[int]
    tokens: list[int]
    widths: list[int]
    biased: bool
    all_layers: int
    whole: int

    def few_tokens(self, target: int) -> bool:
        """Whether the alignment with a layer comes out too high, for want of tokens."""
        return self.biased and self.tokens[target] < TOKENS_PER_CHANNEL * self.widths[target]


@dataclass(frozen=True)
class StepCosts:
    """What the steps of a run cost.

    Attributes:
        batch_size: Images per step, over all processes.
        student: MACs per image of the student's forward pass, without projectors.
        teachers: By teacher.
    """

    batch_size: int
    student: int
    teachers: dict[str, TeacherCosts]

    @property
    def deepest(self) -> dict[str, int]:
        """Each teacher's deepest target, 0-based: the baseline's."""
        return {name: len(costs.teacher) - 1 for name, costs in self.teachers.items()}

    def teacher_macs(self, targets: Mapping[str, int]) -> int:
        """MACs per image of all teachers with these targets, 0-based."""
        return sum(self.teachers[name].teacher[target] for name, target in targets.items())

    def student_macs(self, targets: Mapping[str, int]) -> int:
        """MACs per image of the student's forward pass and the projectors of these targets."""
        return self.student + sum(self.teachers[name].heads[target] for name, target in targets.items())

    def step_macs(self, targets: Mapping[str, int]) -> int:
        """MACs per image of a whole step with these targets, alignments left out."""
        return self.teacher_macs(targets) + STUDENT_STEP * self.student_macs(targets)

    def row(self, targets: Mapping[str, int], measured: Sequence[str] = ()) -> dict[str, int]:
        """What :meth:`FlopsLedger.record_step` records of a step.

        Args:
            targets: Each teacher's target, 0-based.
            measured: The teachers whose alignment is measured.
        """
        return {
            "images": self.batch_size,
            "teacher_macs": self.teacher_macs(targets),
            "student_macs": self.student_macs(targets),
            "alignment_macs": sum(self.teachers[name].scores[targets[name]] for name in measured),
        }

    def ledger(self) -> FlopsLedger:
        """A ledger before the first step; its baseline is the deepest target of each teacher."""
        return FlopsLedger(self.teacher_macs(self.deepest), self.student_macs(self.deepest))

    def record_calibration(self, ledger: FlopsLedger, name: str) -> None:
        """Record one pass through all layers of a teacher; for each, a student's pass and an alignment."""
        costs = self.teachers[name]
        ledger.record_calibration(
            self.batch_size,
            teacher_macs=costs.all_layers,
            student_macs=self.student * len(costs.heads) + sum(costs.heads),
            alignment_macs=sum(costs.scores),
        )

    def forecast(self, schedulers: Mapping[str, DifficultyScheduler]) -> Forecast:
        """What the steps that are left will cost, in MACs per image; alignments left out."""
        costs = {
            name: [
                teacher + STUDENT_STEP * head for teacher, head in zip(own.teacher, own.heads, strict=True)
            ]
            for name, own in self.teachers.items()
        }
        return Forecast(schedulers, costs, STUDENT_STEP * self.student)


def teacher_costs(
    teacher: LayerFeatureProvider,
    student: LayerFeatureProvider,
    match: Match,
    alignment: BatchAlignment | None,
) -> TeacherCosts:
    """Count what a teacher costs for each layer that may be its target.

    Args:
        teacher: Its backbone.
        student: The student.
        match: The student's match with it.
        alignment: What its scheduler measures; None if nothing.

    Raises:
        CountingError: The cost of an operator is not known.
    """
    layers, macs = range(match.target.choices), count_layer_macs(teacher, norm=match.target_norm)
    embedding = count_macs(_Embedding(teacher), teacher.example_input()) if match.embedding else 0
    shapes = StudentFeatures(dict(enumerate(layer_shapes(student)))), layer_shapes(teacher)
    compared = [_compared_shape(match, *shapes, layer) for layer in layers]
    return TeacherCosts(
        teacher=[macs.until(*match.teacher_layers(layer)) + embedding for layer in layers],
        heads=head_macs(match, *shapes),
        scores=[alignment.macs(*shape) if alignment else 0 for shape in compared],
        tokens=[alignment.tokens(per_image) if alignment else 0 for per_image, _ in compared],
        widths=[width for _, width in compared],
        biased=alignment is not None and alignment.name == "cka",
        all_layers=macs.until(*layers),
        whole=macs.whole,
    )


def student_macs(distiller: Distiller) -> int:
    """MACs per image of the student's forward pass and of its patch embedding's heads, without projectors."""
    return count_macs(_StudentSide(distiller), distiller.student.example_input())


def head_macs(match: Match, student: StudentFeatures, teacher: Sequence[LayerFeatures]) -> list[int]:
    """MACs per image of projecting the student's features, for each layer that may be the target.

    They differ where the teacher's width does, or the grid on which both are compared.

    Args:
        match: Its projectors are counted.
        student: Shapes of all its layers.
        teacher: Shapes of all its layers.
    """
    counted, macs = dict[tuple[object, ...], int](), []
    for layer in range(match.target.choices):
        targets = [teacher[index] for index in match.teacher_layers(layer)]
        key = tuple((target.channels, target.grid, target.tokens.shape) for target in targets)
        if key not in counted:
            projection = _Projection(match, student, targets)
            counted[key] = count_macs(projection, *projection.inputs())
        macs.append(counted[key])
    return macs


def _compared_shape(
    match: Match, student: StudentFeatures, teacher: Sequence[LayerFeatures], layer: int
) -> tuple[int, int]:
    """Tokens per image and channels of the first pair's features, on the grid where they are compared."""
    (ours, theirs), *_ = match.target.pairs(layer)
    _, target = on_common_grid(student.layers[ours], teacher[theirs], grid=match.grid)
    return target.tokens.shape[1], target.channels


class _StudentSide(nn.Module):
    """The student, its last layer finalized, and its side of the losses between patch embeddings."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.distiller.student_features(images)
        results = [tensor for layer in features.layers.values() for tensor in layer.tensors]
        for match in self.distiller.matches:
            if match.embedding and features.embedding:
                loss: Any = match.embedding
                results += features.embedding.map(loss.head).map(loss.norm).tensors
        return results


class _Embedding(nn.Module):
    """A provider's patch embedding alone."""

    def __init__(self, provider: LayerFeatureProvider) -> None:
        super().__init__()
        self.provider = provider

    def forward(self, images: Tensor) -> Tensor:
        return self.provider.embed(images).tokens


class _Projection(nn.Module):
    """The projectors of one target; the student's tensors come as inputs, so that the tracer sees them."""

    def __init__(self, match: Match, student: StudentFeatures, teacher: list[LayerFeatures]) -> None:
        super().__init__()
        self.match = match
        self.student = {layer: student.layers[layer] for layer in set(match.student_layers)}
        self.teacher = teacher

    def inputs(self) -> list[Tensor]:
        return [tensor for features in self.student.values() for tensor in features.tensors]

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        inputs, layers = iter(tensors), {}
        for layer, features in self.student.items():
            tokens = next(inputs)
            prefix = None if features.prefix_tokens is None else next(inputs)
            layers[layer] = replace(features, tokens=tokens, prefix_tokens=prefix)
        pairs = self.match.projected(StudentFeatures(layers), self.teacher)
        return [tensor for projected, _ in pairs for tensor in projected.tensors]
