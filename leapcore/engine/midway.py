"""Evaluations between two steps of a run."""

from __future__ import annotations

from typing import Any

from leapcore.core.duration import Duration
from leapcore.engine.cka_maps import tell_cka_maps
from leapcore.engine.evaluate import student_knn
from leapcore.engine.setup import Parts


def evaluate_midway(parts: Parts, step: int, hooks: Any) -> None:
    """What the spec asks for after this step, which is not the last. All processes call it.

    Args:
        parts: The run.
        step: Finished steps.
        hooks: Tells the listeners.
    """

    def due(every: Any) -> bool:
        return isinstance(every, Duration) and step % every.in_steps(parts.batches.steps_per_epoch) == 0

    wanted = parts.spec.evaluate
    if due(wanted.knn):
        hooks.leapcore_stage(stage="evaluating")
    if due(wanted.knn) and (found := student_knn(parts)):
        hooks.leapcore_metrics(step=step, metrics=found)
    if due(wanted.cka_map):
        tell_cka_maps(parts, step, hooks)
