"""Which FLOPs a step is booked with, over all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from leapcore.core.distiller import Distillation
from leapcore.core.flops import STUDENT_STEP, FlopsLedger
from leapcore.core.forecast import Forecast
from leapcore.plugins.events import per_teacher
from leapcore.train.setup import RunParts
from leapcore.train.teacher import Teacher


def book_step(parts: RunParts, result: Distillation) -> None:
    """Book the teachers, the student and the alignments that were measured."""
    teachers = parts.teachers
    scored = [teacher for teacher in teachers if teacher.scheduler.wants_score]
    parts.ledger.record_step(
        parts.spec.train.batch_size,
        teacher_macs=sum(teacher.step_macs for teacher in teachers),
        student_macs=parts.student_macs
        + sum(teacher.head_macs[teacher.scheduler.target] for teacher in teachers),
        alignment_macs=sum(teacher.score_macs(result.comparisons[teacher.name]) for teacher in scored),
    )


def book_calibration(
    ledger: FlopsLedger, teacher: Teacher, student_macs: int, layers: int, alignment_macs: int
) -> None:
    """Book the scan of a teacher's first so many layers, with a pass of the student for each.

    Args:
        ledger: Where to.
        teacher: Which one.
        student_macs: MACs per image of the student without projectors.
        layers: How many layers.
        alignment_macs: What all the scores took together.
    """
    ledger.record_calibration(
        teacher.batch_size,
        teacher_macs=teacher.macs.until(*range(layers)),
        student_macs=student_macs * layers + sum(teacher.head_macs[:layers]),
        alignment_macs=alignment_macs,
    )


def book_found(parts: RunParts, layers: Mapping[str, int], found: Sequence[int]) -> dict[str, Tensor]:
    """Take back what the teachers' caches spared them in a step.

    Args:
        parts: The run.
        layers: Each teacher's target in that step.
        found: How many images each of them was spared.

    Returns:
        Figures of the step: the share of its images, for each teacher that has a cache.
    """
    figures: dict[str, Tensor] = {}
    for teacher, images in zip(parts.teachers, found, strict=True):
        if teacher.cache:
            parts.ledger.record_spared(images * teacher.target_macs(layers[teacher.name]))
            share = torch.full((), images / parts.spec.train.batch_size, device=parts.device)
            figures |= per_teacher({"cache_hits": share}, teacher.name, parts.teachers)
    return figures


def forecast(teachers: Sequence[Teacher], student_macs: int) -> Forecast:
    """What the steps that are left will be booked with, in MACs per image; alignments left out.

    Args:
        teachers: With their schedulers.
        student_macs: MACs per image of the student without projectors.
    """
    costs = {
        teacher.name: [
            teacher.target_macs(layer) + STUDENT_STEP * head for layer, head in enumerate(teacher.head_macs)
        ]
        for teacher in teachers
    }
    return Forecast({t.name: t.scheduler for t in teachers}, costs, STUDENT_STEP * student_macs)
