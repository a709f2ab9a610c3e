"""A whole run: build, train, evaluate, export, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from leapcore.plugins import Events, installed_plugins
from leapcore.spec import Spec


def run(
    spec: Spec, *, output: str | Path | None = None, overwrite: bool = False, listeners: Sequence[Any] = ()
) -> RunReport:
    """Distill as the spec says.

    Args:
        spec: The run; :func:`leapcore.load_spec` reads one.
        output: The folder for results, ``runs/<name>`` if None.
        overwrite: Replace the results of an earlier run in that folder.
        listeners: Objects with hooks such as ``leapcore_metrics``, told of this run only.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit; nothing was left behind.
        DivergedError: The loss is not finite any more.
        Interrupted: Ctrl-C.

    After the first step the student so far and a summary are in the folder, whatever ended the run.
    """
    started = time.perf_counter()
    folder = RunFolder(Path(output or Path("runs") / spec.name), overwrite=overwrite)
    loop = Loop(build(spec))
    folder.open(spec)
    try:
        with _told(loop, [JsonLines(folder.path), TensorBoard(folder.path), *listeners]):
            return _train_and_report(loop, folder, started)
    except KeyboardInterrupt:
        raise _interrupted(loop, folder) from None
    finally:
        if loop.step:
            folder.settle()
        else:
            folder.abandon()


def _train_and_report(loop: Loop, folder: RunFolder, started: float) -> RunReport:
    """Whatever ends the training after its first step, the student so far and a summary are written."""
    loop.hooks.leapcore_run_started(start=_start(loop.parts, folder))
    status = "failed"
    try:
        loop.fit()
        status = "trained"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        if loop.step:
            export_student(loop.parts.student, folder.student)
            report = _report(loop, folder, status, started)
            folder.write_summary(report)
            if status != "trained":
                loop.hooks.leapcore_run_finished(report=report)
    report.accuracy = final_accuracies(loop.parts)
    if report.accuracy:
        loop.hooks.leapcore_metrics(step=loop.step, metrics=report.accuracy)
    report.status, report.time["seconds"] = "finished", time.perf_counter() - started
    folder.write_summary(report)
    loop.hooks.leapcore_run_finished(report=report)
    return report


def _interrupted(loop: Loop, folder: RunFolder) -> Interrupted:
    if loop.step == 0:
        return Interrupted("stopped before the first step; nothing was left behind")
    if loop.step == loop.parts.total_steps:
        return Interrupted(
            f"stopped during the final evaluation; the student is trained and lies in {folder.student}",
            "Only its accuracy is missing.",
        )
    return Interrupted(
        f"stopped after {loop.step} of {loop.parts.total_steps} steps; what was done is in {folder.path}",
        f"Go on from these weights with --output DIR --set student.weights={folder.student}, "
        "or start again with --overwrite.",
    )


def _start(parts: Parts, folder: RunFolder) -> RunStart:
    return RunStart(
        spec=parts.spec,
        folder=folder.path,
        total_steps=parts.total_steps,
        steps_per_epoch=parts.batches.steps_per_epoch,
        teachers=parts.teacher_facts,
        student=parts.student_facts,
        train_images=len(parts.splits.train),  # type: ignore[arg-type]
        val_images=len(parts.splits.val),  # type: ignore[arg-type]
    )


def _report(loop: Loop, folder: RunFolder, status: str, started: float) -> RunReport:
    parts, ledger = loop.parts, loop.parts.ledger
    return RunReport(
        name=parts.spec.name,
        folder=folder.path,
        status=status,
        steps=loop.step,
        accuracy={},
        flops={
            "spent": ledger.spent,
            "baseline": ledger.baseline,
            "saved": ledger.saved,
            "spent_by_part": ledger.flops_by_part(),
        },
        time={
            "seconds": time.perf_counter() - started,
            "training_seconds": loop.seconds,
            "images_per_second": loop.step * parts.spec.train.batch_size / max(loop.seconds, 1e-9),
        },
        student={
            "folder": str(folder.student),
            "parameters": parts.student_facts.parameters,
            "load": load_line(folder.student),
        },
        teachers={
            name: {"parameters": facts.parameters, "layers": facts.layers}
            for name, facts in parts.teacher_facts.items()
        },
        curriculum=loop.changes,
    )


@contextmanager
def _told(loop: Loop, listeners: Sequence[Any]) -> Iterator[None]:
    """Let the loop tell the listeners, in their order, and every plugin that listens."""
    manager = installed_plugins().manager
    with ExitStack() as stack:
        for listener in reversed(listeners):
            stack.callback(getattr(listener, "close", lambda: None))
            manager.register(listener)
            stack.callback(manager.unregister, listener)
        loop.hooks = Events(manager)
        yield
