"""What steps and whole walks cost in FLOPs, counted as a run's ledger counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from leapcore.cache.encoding import record_size
from leapcore.core.alignment import ALIGNMENTS
from leapcore.core.features import LayerFeatures
from leapcore.core.flops import FLOPS_PER_MAC, STUDENT_STEP, FlopsLedger
from leapcore.core.forecast import Stay, course, ends, started_at, together
from leapcore.core.layer_check import layer_shapes
from leapcore.core.matching import StudentFeatures, TeacherFeatures
from leapcore.plan.parts import PlannedRun
from leapcore.train.booking import book_calibration
from leapcore.train.costs import empty_ledger
from leapcore.train.teacher import Teacher

Walks = Mapping[str, Sequence[Stay]]


@dataclass(frozen=True)
class LayerCosts:
    """What one teacher costs while each of its layers is the target, shallow to deep.

    Attributes:
        teacher: MACs per image of the teacher.
        heads: MACs per image of the student's projectors, forward.
        scores: MACs of measuring the alignment once; 0 where the scheduler does not.
        tokens: On how many tokens it is measured.
        widths: How wide these are.
        stored: Bytes per image of the features, in float32, that a cache keeps.
    """

    teacher: list[int]
    heads: list[int]
    scores: list[int]
    tokens: list[int]
    widths: list[int]
    stored: list[int]


class Costs:
    """The costs of a run's steps.

    Args:
        parts: The run.

    Attributes:
        parts: The run.
        layers: By teacher.
    """

    def __init__(self, parts: PlannedRun) -> None:
        self.parts = parts
        student = StudentFeatures(dict(enumerate(layer_shapes(parts.distiller.student))))
        self.layers = {t.name: _layer_costs(t, student) for t in parts.teachers}

    @cached_property
    def baseline(self) -> FlopsLedger:
        """An empty ledger that holds runs against the last layer."""
        return empty_ledger(self.parts.teachers, self.parts.student_macs)

    @cached_property
    def moves(self) -> bool:
        """Whether any target is another one than the last layer, at some time."""
        walks, depths = self.by_the_clock(), self.parts.depths
        return any(stay.target < depths[name] - 1 for name, stays in walks.items() for stay in stays)

    def step(self, targets: Mapping[str, int]) -> int:
        """FLOPs per image of a step with these targets, alignments left out."""
        heads = sum(self.layers[name].heads[target] for name, target in targets.items())
        teachers = sum(self.layers[name].teacher[target] for name, target in targets.items())
        return FLOPS_PER_MAC * (teachers + STUDENT_STEP * (self.parts.student_macs + heads))

    def booked(self, walks: Walks, *, calibrated: bool = True) -> FlopsLedger:
        """A ledger at the end of a run.

        Args:
            walks: Each teacher's.
            calibrated: Book the calibration, too, of teachers whose scheduler wants one.
        """
        batch, ledger = self.parts.spec.train.batch_size, FlopsLedger(**self.baseline.state_dict())
        for steps, targets in together({name: ends(stays) for name, stays in walks.items()}):
            heads = sum(self.layers[name].heads[target] for name, target in targets.items())
            ledger.record_step(
                steps * batch,
                teacher_macs=sum(self.layers[name].teacher[target] for name, target in targets.items()),
                student_macs=self.parts.student_macs + heads,
            )
        for name, stays in walks.items():
            scores = self.layers[name].scores
            ledger.macs["alignment"] += sum(stay.measured * scores[stay.target] for stay in stays)
        for teacher in self.parts.teachers if calibrated else ():
            if teacher.scheduler.wants_calibration:
                scores = self.layers[teacher.name].scores
                book_calibration(ledger, teacher, self.parts.student_macs, len(scores), sum(scores))
        return ledger

    def projectors(self, walks: Walks) -> int:
        """FLOPs of the projectors alone, which the ledger books with the student."""
        batch = self.parts.spec.train.batch_size
        macs = sum(
            stay.steps * self.layers[name].heads[stay.target]
            for name, stays in walks.items()
            for stay in stays
        )
        return FLOPS_PER_MAC * STUDENT_STEP * macs * batch

    def spared(self, walks: Walks) -> int:
        """FLOPs that a cache with room for all spares at most, if it is empty at first.

        Each view of an image is computed once for each target; without a number of views none comes again.
        """
        spec, views = self.parts.spec, self.parts.spec.data.augment.views
        if spec.cache.folder is None or views is None:
            return 0
        once, macs = views * self.parts.length.steps_per_epoch, 0
        for name, stays in walks.items():
            for target in {stay.target for stay in stays}:
                steps = sum(stay.steps for stay in stays if stay.target == target)
                macs += max(0, steps - once) * self.layers[name].teacher[target]
        return FLOPS_PER_MAC * macs * spec.train.batch_size

    def by_the_clock(self, start: int | None = None) -> Walks:
        """The walks of the run's own curricula if no score ever moves them.

        Args:
            start: The 0-based layer that a calibration would choose; the first if None.
        """
        walks = {}
        for teacher in self.parts.teachers:
            chosen = min(start or 0, teacher.match.target.choices - 1)
            first = chosen if teacher.scheduler.wants_calibration else None
            walks[teacher.name] = course(started_at(teacher.scheduler, first))
        return walks


@torch.no_grad()
def _layer_costs(teacher: Teacher, student: StudentFeatures) -> LayerCosts:
    shapes, layers = layer_shapes(teacher.provider), range(teacher.match.target.choices)
    asked = [[shapes[index] for index in teacher.match.teacher_layers(layer)] for layer in layers]
    pairs = [teacher.match.projected(student, targets)[0][1].tokens.shape for targets in asked]
    images = min(teacher.scheduler.sample_images or teacher.batch_size, teacher.batch_size)
    tokens, widths = [images * shape[1] for shape in pairs], [shape[2] for shape in pairs]
    scored = teacher.scheduler.alignment
    scores = [ALIGNMENTS[scored].macs(n, d) if scored else 0 for n, d in zip(tokens, widths, strict=True)]
    return LayerCosts(
        teacher=[teacher.target_macs(layer) for layer in layers],
        heads=list(teacher.head_macs),
        scores=scores,
        tokens=tokens,
        widths=widths,
        stored=[record_size(TeacherFeatures(targets, _embedding(teacher))) for targets in asked],
    )


def _embedding(teacher: Teacher) -> LayerFeatures | None:
    provider = teacher.provider
    return provider.embed(provider.example_input().to("meta")) if teacher.match.embedding else None
