"""The courses that a run may take, each with its FLOPs."""

from __future__ import annotations

from dataclasses import dataclass

from leapcore.core.flops import FlopsLedger
from leapcore.plan.costs import Costs, Walks


@dataclass(frozen=True)
class Scenario:
    """A walk of each teacher's curriculum in which no score ever moves a target.

    Attributes:
        name: Its name, which the others do not have.
        walks: Each teacher's.
        ledger: At the end of the run.
        spared: FLOPs that a cache takes off that at most.
    """

    name: str
    walks: Walks
    ledger: FlopsLedger
    spared: int

    @property
    def spent(self) -> int:
        """FLOPs of the run."""
        return self.ledger.spent - self.spared

    @property
    def saved(self) -> float:
        """Share of the FLOPs of the run against the last layer."""
        return 1 - self.spent / self.ledger.baseline


def scenarios(costs: Costs) -> list[Scenario]:
    """The run's own curricula; from several starts where a calibration will choose one."""
    if not any(teacher.scheduler.wants_calibration for teacher in costs.parts.teachers):
        return [_scenario(costs, "by the clock", costs.by_the_clock())]
    depth = max(costs.parts.depths.values())
    starts = dict.fromkeys((0, (depth - 1) // 2, depth - 1))
    return [_scenario(costs, f"from layer {start + 1}", costs.by_the_clock(start)) for start in starts]


def _scenario(costs: Costs, name: str, walks: Walks) -> Scenario:
    return Scenario(
        name, walks, costs.ledger_of(walks, calibrated=costs.parts.images is not None), costs.spared(walks)
    )
