"""What steps and whole walks cost in FLOPs, counted as a run's ledger counts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from leapcore.core.flops import FLOPS_PER_MAC, STUDENT_STEP, FlopsLedger
from leapcore.plan.parts import PlannedRun
from leapcore.runs.forecast import Stay, course, ends, started_at, together

Walks = Mapping[str, Sequence[Stay]]


class Costs:
    """The costs of a run's steps.

    Args:
        parts: The run.

    Attributes:
        parts: The run.
        table: What steps cost, by target layer.
        layers: The same for one teacher, by its name.
    """

    def __init__(self, parts: PlannedRun) -> None:
        self.parts = parts
        self.table = parts.models.costs
        self.layers = self.table.teachers

    @cached_property
    def moves(self) -> bool:
        """Whether any target is another one than the last layer, at some time."""
        walks, depths = self.by_the_clock(), self.parts.depths
        return any(stay.target < depths[name] - 1 for name, stays in walks.items() for stay in stays)

    def step(self, targets: Mapping[str, int]) -> int:
        """FLOPs per image of a step with these targets, alignments left out."""
        return FLOPS_PER_MAC * self.table.step_macs(targets)

    def ledger_of(self, walks: Walks, *, calibrated: bool = True) -> FlopsLedger:
        """A ledger at the end of a run.

        Args:
            walks: Each teacher's.
            calibrated: Book the calibration, too, of teachers whose scheduler wants one.
        """
        ledger = self.table.ledger()
        for steps, targets in together({name: ends(stays) for name, stays in walks.items()}):
            row = self.table.row(targets)
            ledger.record_step(**row | {"images": steps * row["images"]})
        for name, stays in walks.items():
            scores = self.layers[name].scores
            ledger.macs["alignment"] += sum(stay.measured * scores[stay.target] for stay in stays)
        for teacher in self.parts.teachers if calibrated else ():
            if teacher.scheduler.wants_calibration:
                self.table.record_calibration(ledger, teacher.name)
        return ledger

    def projectors(self, walks: Walks) -> int:
        """FLOPs of the projectors alone, which the ledger counts with the student."""
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
