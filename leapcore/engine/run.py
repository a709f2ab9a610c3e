"""A whole run: build, train, evaluate, export, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leapcore.engine.evaluate import final_accuracies
from leapcore.engine.folder import RunFolder
from leapcore.engine.loop import Loop
from leapcore.engine.setup import Parts, build
from leapcore.errors import Interrupted
from leapcore.events import RunReport, RunStart
from leapcore.export import export_student, load_line
from leapcore.listeners.files import JsonLines, TensorBoard
from leapcore.plugins import installed_plugins
from leapcore.spec import Spec


def run(
    spec: Spec, *, output: Path | None = None, overwrite: bool = False, listeners: Sequence[Any] = ()
) -> RunReport:
    """Distill as the spec says.

    Args:
        spec: The run; :func:`leapcore.load_spec` reads one.
        output: The folder for results, ``runs/<name>`` if None.
        overwrite: Replace the results of an earlier run in that folder.
        listeners: Objects with hooks such as ``leapcore_metrics``, told of this run only.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit; nothing was left behind.
        Interrupted: Ctrl-C; the student so far and a summary are in the folder.
    """
    started = time.perf_counter()
    folder = RunFolder(output or Path("runs") / spec.name, overwrite=overwrite)
    parts = build(spec)
    folder.open(spec)
    with _told([JsonLines(folder.path), TensorBoard(folder.path), *listeners]) as hooks:
        loop = Loop(parts, hooks)
        status = _train(loop, folder, hooks)
        report = _finish(loop, folder, status, started)
        hooks.leapcore_run_finished(report=report)
    if status == "interrupted":
        raise Interrupted(
            f"stopped after {loop.step} of {parts.total_steps} steps; what was done is in {folder.path}",
            f"Go on from these weights with --output DIR --set student.weights={folder.student}, "
            "or start again with --overwrite.",
        )
    return report


def _train(loop: Loop, folder: RunFolder, hooks: Any) -> str:
    """Train to the end or to Ctrl-C; a failure before the first step leaves no trace."""
    try:
        hooks.leapcore_run_started(start=_start(loop.parts, folder))
        loop.fit()
    except BaseException as error:
        if loop.step == 0:
            folder.abandon()
            raise
        if not isinstance(error, KeyboardInterrupt):
            raise
        return "interrupted"
    finally:
        if loop.step:
            folder.settle()
    return "finished"


def _start(parts: Parts, folder: RunFolder) -> RunStart:
    return RunStart(
        spec=parts.spec,
        folder=folder.path,
        total_steps=parts.total_steps,
        steps_per_epoch=parts.batches.steps_per_epoch,
        teacher=parts.teacher_facts,
        student=parts.student_facts,
        train_images=len(parts.splits.train),  # type: ignore[arg-type]
        val_images=len(parts.splits.val),  # type: ignore[arg-type]
    )


def _finish(loop: Loop, folder: RunFolder, status: str, started: float) -> RunReport:
    """Export the student first: an evaluation that fails must not lose it."""
    parts = loop.parts
    export_student(parts.student, folder.student)
    accuracy = final_accuracies(parts) if status == "finished" else {}
    ledger = parts.ledger
    report = RunReport(
        name=parts.spec.name,
        folder=folder.path,
        status=status,
        steps=loop.step,
        accuracy=accuracy,
        flops={
            "spent": ledger.spent,
            "baseline": ledger.baseline,
            "saved": ledger.saved,
            "spent_by_part": ledger.flops_by_part(),
        },
        time={
            "seconds": time.perf_counter() - started,
            "training_seconds": loop.seconds,
            "images_per_second": loop.step * parts.spec.train.batch_size / loop.seconds,
        },
        student={
            "folder": str(folder.student),
            "parameters": parts.student_facts.parameters,
            "load": load_line(folder.student),
        },
        teacher={"parameters": parts.teacher_facts.parameters, "layers": parts.teacher_facts.layers},
        curriculum=loop.changes,
    )
    folder.write_summary(report)
    return report


@contextmanager
def _told(listeners: Sequence[Any]) -> Iterator[Any]:
    """Register listeners for the length of a run, in the order they are to be told."""
    manager = installed_plugins().manager
    for listener in reversed(listeners):
        manager.register(listener)
    try:
        yield manager.hook
    finally:
        for listener in listeners:
            manager.unregister(listener)
            getattr(listener, "close", lambda: None)()
