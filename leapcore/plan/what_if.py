"""What other curricula would save: walks at a steady pace, and the schedulers that need no score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leapcore.core.duration import Duration
from leapcore.plan.costs import Costs, Walks
from leapcore.runs.forecast import Stay, course, started_at
from leapcore.train.schedules import build_scheduler

PACES = (1, 2, 3, 4, 5, 6, 10)  # epochs at each layer
STARTS = (0.0, 0.2, 0.35, 0.5, 0.625)  # of the teacher's layers


@dataclass(frozen=True)
class SteadyWalks:
    """The saving of walks that stay equally long at each layer and never ask for a score.

    Attributes:
        starts: The first target, 1-based.
        paces: Epochs at each layer.
        saved: Share of the last-layer run's FLOPs, a row for each start.
    """

    starts: list[int]
    paces: list[int]
    saved: list[list[float]]


def steady_walks(costs: Costs) -> SteadyWalks:
    """Savings over the first layer and the epochs at each layer; no pace above the length of the run.

    Each teacher's walk starts at the same share of its depth.
    """
    length, depth = costs.parts.length, max(costs.parts.depths.values())
    paces = [pace for pace in PACES if pace * length.steps_per_epoch <= length.total_steps]
    starts = list(dict.fromkeys(max(0, round(share * depth) - 1) for share in STARTS))
    saved = [
        [costs.ledger_of(_steady(costs, start / depth, pace), calibrated=False).saved for pace in paces]
        for start in starts
    ]
    return SteadyWalks([start + 1 for start in starts], paces, saved)


def _steady(costs: Costs, start: float, pace: int) -> Walks:
    length = costs.parts.length
    return {
        name: steady(depth, round(start * depth), pace * length.steps_per_epoch, length.total_steps)
        for name, depth in costs.parts.depths.items()
    }


def steady(depth: int, start: int, pace: int, total: int) -> list[Stay]:
    """A walk that stays so many steps at each layer, and at the last for the rest of the run.

    Args:
        depth: How many layers there are.
        start: The first target, 0-based.
        pace: Steps at each layer.
        total: Steps of the run.
    """
    stays = []
    for target in range(start, depth):
        steps = total if target == depth - 1 else min(pace, total)
        stays.append(Stay(target, steps, 0))
        total -= steps
    return [stay for stay in stays if stay.steps]


def without_scores(costs: Costs) -> dict[str, Walks]:
    """Walks of the schedulers that go by the clock, over the whole run and over half of it."""
    half = Duration(max(1, costs.parts.length.total_steps // 2), "st")
    schedulers: dict[str, Mapping[str, object]] = {
        "fixed": {},
        "linear": {},
        "linear, over half the run": {"duration": half},
        "random": {},
    }
    return {name: _walks(costs, name.partition(",")[0], options) for name, options in schedulers.items()}


def _walks(costs: Costs, name: str, options: Mapping[str, object]) -> Walks:
    walks = {}
    for teacher, depth in costs.parts.depths.items():
        chosen = build_scheduler(name, depth, run=costs.parts.length, **options)
        walks[teacher] = course(started_at(chosen))
    return walks
