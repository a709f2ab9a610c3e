"""Evaluations between two steps of a run."""

from __future__ import annotations

from typing import Any

from leapcore.core.duration import Duration
from leapcore.train.cka_maps import tell_cka_maps
from leapcore.train.evaluate import student_knn
from leapcore.train.setup import RunParts


def evaluate_midway(parts: RunParts, step: int, hooks: Any) -> None:
    """What the spec asks for after this step, which is not the last. All processes call it.

    Args:
        parts: The run.
        step: Finished steps.
        hooks: Tells the listeners.
    """
    wanted, epoch = parts.spec.evaluate, parts.batches.steps_per_epoch
    if _due(wanted.knn, step, epoch):
        hooks.leapcore_stage(stage="evaluating")
        if found := student_knn(parts):
            hooks.leapcore_metrics(step=step, metrics=found)
    if _due(wanted.cka_map, step, epoch):
        tell_cka_maps(parts, step, hooks)


def _due(moment: Duration | str, step: int, steps_per_epoch: int) -> bool:
    return isinstance(moment, Duration) and step % moment.in_steps(steps_per_epoch) == 0
