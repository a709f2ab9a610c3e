"""A whole run: build, train, evaluate, export, report."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from leapcore.core.duration import Duration
from leapcore.engine.booking import forecast
from leapcore.engine.checkpoints.resume import check_changes, check_length
from leapcore.engine.checkpoints.saver import Saver
from leapcore.engine.cka_maps import tell_cka_maps
from leapcore.engine.evaluate import current_student, final_accuracies
from leapcore.engine.folder import Elsewhere, RunFolder
from leapcore.engine.loop import Loop
from leapcore.engine.loop_state import restore, snapshot
from leapcore.engine.machine import machine
from leapcore.engine.machine_errors import machine_faults_told
from leapcore.engine.ranks import join, shared
from leapcore.engine.setup import build
from leapcore.engine.signals import Sigterm
from leapcore.errors import Interrupted, LeapcoreError, Terminated, described
from leapcore.events import RunReport, RunStart
from leapcore.export.student import export_student, load_line
from leapcore.listeners.chosen import chosen_listeners
from leapcore.listeners.files import CkaMapLines, JsonLines, SkippedLog, StartFile
from leapcore.listeners.pages import ModelCard, ReportPage
from leapcore.plugins import Events, Nobody, installed_plugins
from leapcore.spec import Spec
from leapcore.spec_file import load_spec, warn_of_doubts


def run(
    spec: Spec | Mapping[str, Any] | str | Path,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: str | None = None,
    listeners: Sequence[Any] = (),
    progress: bool | None = None,
) -> RunReport:
    """Distill as the spec says; with several processes, each of them calls it.

    Args:
        spec: The run, as :func:`leapcore.load_spec` takes it: a spec, a mapping of its keys, a YAML file or a
            recipe's name.
        output: The folder for results, ``runs/<name>`` if None.
        overwrite: Replace the results of an earlier run in that folder.
        resume: Go on with the run in that folder: from its ``"latest"`` checkpoint or the named one;
            ``"auto"`` from the latest if there is one, else from the start.
        listeners: Objects with hooks such as ``leapcore_metrics``, told of this run, in the first process,
            beside those that the spec names.
        progress: Show how it goes, as ``leapcore run`` does; if None, in a notebook only.

    Returns:
        What the run achieved; of a run that was finished before, what it achieved then.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit; nothing was left behind.
        CheckpointError: There is nothing to go on from, it is broken, or a setting changed that may not.
        DivergedError: The loss is not finite any more.
        Interrupted: Ctrl-C, or its subclass Terminated: SIGTERM. The run is saved.

    After the first step the student so far and a summary are in the folder, whatever ended the run.
    """
    started, spec, ranks = time.perf_counter(), load_spec(spec), join()
    path = Path(output or Path("runs") / spec.name)
    with _heard([*listeners, *_shown(progress)], tells=ranks.first) as hooks:
        return _run_in(path, spec, overwrite, resume, hooks, started)


def _run_in(
    path: Path, spec: Spec, overwrite: bool, resume: str | None, hooks: Any, started: float
) -> RunReport:
    """A run in its folder, which nobody else may use meanwhile."""
    ranks = join()
    folder = ranks.together(
        lambda: RunFolder(path, overwrite=overwrite, resume=resume) if ranks.first else Elsewhere(path)
    )
    try:
        if ranks.told_by_first(resume in ("auto", "latest") and folder.is_finished(spec)):
            return ranks.told_by_first(folder.report() if isinstance(folder, RunFolder) else None)  # type: ignore[return-value]
        return _run(spec, folder, hooks, started)
    finally:
        folder.close()


def _run(spec: Spec, folder: RunFolder | Elsewhere, hooks: Any, started: float) -> RunReport:
    chosen = chosen_listeners(spec)
    warn_of_doubts(spec)
    with machine_faults_told(lambda: "before the first step"):
        loop = _loop(spec, folder, hooks, started)
    parts = loop.parts
    trained = loop.step == parts.total_steps
    with machine_faults_told(lambda: "before the first step"):
        parts.ranks.together(lambda: folder.open(spec, loop.step, trained=trained))
    saver = Saver(
        folder.checkpoints if parts.ranks.first else None,
        spec.checkpoint,
        parts.batches.steps_per_epoch,
        lambda: snapshot(loop),
        loop.step,
    )
    try:
        with machine_faults_told(lambda: _whereabouts(loop)), _kept(loop, folder.path, chosen):
            return _train_and_report(loop, saver, folder)
    except KeyboardInterrupt as stop:
        if isinstance(stop, Sigterm):
            loop.stopped = signal.SIGTERM
        raise _stopped(loop, folder, saver) from None
    finally:
        if loop.step:
            folder.settle()
        else:
            folder.abandon()


def _loop(spec: Spec, folder: RunFolder | Elsewhere, hooks: Any, started: float) -> Loop:
    """The loop before its first step, or where a checkpoint left it."""

    def tell(stage: str) -> None:
        hooks.leapcore_stage(stage=stage)

    ranks = join()
    saved = ranks.told_by_first(ranks.together(folder.saved))
    if saved is None:
        return Loop(build(spec, tell=tell), hooks, started)
    ranks.together(lambda: check_changes(saved, spec))
    parts = build(spec, saved, tell)
    loop, images = Loop(parts, hooks, started), len(parts.splits.train)
    ranks.together(lambda: check_length(saved, parts.total_steps, images))
    ranks.together(lambda: restore(loop, saved))
    return loop


def _train_and_report(loop: Loop, saver: Saver, folder: RunFolder | Elsewhere) -> RunReport:
    """Whatever ends a run after its first step, the student so far and a summary are written."""
    parts = loop.parts
    loop.hooks.leapcore_run_started(start=_start(loop, folder))
    if loop.step == 0 and isinstance(parts.spec.evaluate.cka_map, Duration):
        tell_cka_maps(parts, 0, loop.hooks)
    try:
        with machine_faults_told(lambda: _whereabouts(loop)):
            loop.fit(saver)
    except BaseException as error:
        # Processes that fail alone cannot put partitioned weights together.
        if loop.step and (parts.ranks.size == 1 or parts.spec.engine.zero_stage < 3):
            loop.hooks.leapcore_run_finished(report=_write_results(loop, folder, *_ended_by(error)))
        raise
    loop.hooks.leapcore_stage(stage="writing the student")
    report = _write_results(loop, folder, "interrupted" if loop.stopped else "trained")
    if loop.stopped:
        loop.hooks.leapcore_run_finished(report=report)
        raise shared(_stopped(loop, folder, saver))
    try:
        with machine_faults_told(lambda: _whereabouts(loop)):
            _evaluate(loop, report)
        report.status = "finished"
    except BaseException as error:
        report.status, report.error = _ended_by(error)
        raise
    finally:
        report.time["seconds"] = time.perf_counter() - loop.started
        folder.write_summary(report)
        loop.hooks.leapcore_stage(stage="drawing the report")
        loop.hooks.leapcore_run_finished(report=report)
    return report


def _evaluate(loop: Loop, report: RunReport) -> None:
    """What is known of the student when its training is over."""
    parts, ranks = loop.parts, loop.parts.ranks
    if parts.spec.evaluate.cka_map != "never":
        tell_cka_maps(parts, loop.step, loop.hooks)
    if parts.spec.evaluate.measures_accuracy:
        loop.hooks.leapcore_stage(stage="evaluating")
    accuracy = ranks.together(lambda: final_accuracies(parts) if ranks.first else {})
    report.accuracy = ranks.told_by_first(accuracy)
    if report.accuracy:
        loop.hooks.leapcore_metrics(step=loop.step, metrics=report.accuracy)


def _ended_by(error: BaseException) -> tuple[str, str]:
    """The run's status, and why it failed."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ""
    return "failed", error.cause if isinstance(error, LeapcoreError) else described(error)


def _write_results(loop: Loop, folder: RunFolder | Elsewhere, status: str, error: str = "") -> RunReport:
    student = current_student(loop.parts)
    folder.write_student(lambda path: export_student(student, path, loop.parts.spec.data.crop))
    report = _report(loop, folder, status, error)
    folder.write_summary(report)
    return report


def _stopped(loop: Loop, folder: RunFolder | Elsewhere, saver: Saver) -> Interrupted:
    kind = Terminated if loop.stopped == signal.SIGTERM else Interrupted
    if loop.step == 0:
        return kind("stopped before the first step; nothing was left behind")
    latest = folder.checkpoints.latest()
    if loop.step == loop.parts.total_steps:
        return kind(
            f"stopped after the last step; the student is trained and lies in {folder.student}",
            "Only its accuracy is missing" + (": --resume evaluates it." if latest else "."),
        )
    done = f"stopped after {loop.step} of {loop.parts.total_steps} steps; what was done is in {folder.path}"
    if latest is None:
        on = f"--output DIR --set student.weights={folder.student}, or start again with --overwrite."
        return kind(done, f"{saver.problem or 'There is no checkpoint'}. Go on from these weights with {on}")
    return kind(done, f"Go on from {latest} with the same command and --resume.")


def _whereabouts(loop: Loop) -> str:
    """How far a run is, for a message."""
    layers = ", ".join(str(teacher.scheduler.target + 1) for teacher in loop.parts.teachers)
    return f"after {loop.step} steps (batch of {loop.parts.spec.train.batch_size}, target layer {layers})"


def _start(loop: Loop, folder: RunFolder | Elsewhere) -> RunStart:
    parts = loop.parts
    return RunStart(
        spec=parts.spec,
        folder=folder.path,
        total_steps=parts.total_steps,
        steps_per_epoch=parts.batches.steps_per_epoch,
        teachers=parts.teacher_facts,
        student=parts.student_facts,
        train_images=len(parts.splits.train),
        val_images=len(parts.splits.val),
        step=loop.step,
        targets={teacher.name: teacher.scheduler.target + 1 for teacher in parts.teachers},
        forecast=forecast(parts.teachers, parts.student_macs),
        deepest={teacher.name: teacher.match.target.choices for teacher in parts.teachers},
        links=loop.links,
    )


def _report(loop: Loop, folder: RunFolder | Elsewhere, status: str, error: str) -> RunReport:
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
            "seconds": time.perf_counter() - loop.started,
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
        machine=machine(parts.ranks.size, parts.device),
        links=loop.links,
        error=error,
    )


def _shown(progress: bool | None) -> list[Any]:
    """What shows the run in a terminal or a notebook, where that is wanted."""
    notebook = "ipykernel" in sys.modules
    if not (notebook if progress is None else progress):
        return []
    from rich.console import Console

    from leapcore.listeners.console import ConsoleListener

    if notebook:  # as plain lines, which it keeps in one piece; a moving bar would fill it
        return [ConsoleListener(Console(force_jupyter=False, force_terminal=False, width=100))]
    return [ConsoleListener(Console())]


@contextmanager
def _heard(listeners: Sequence[Any], *, tells: bool) -> Iterator[Any]:
    """Let listeners hear a run beside every plugin that listens; of several processes, only the first tells.

    Args:
        listeners: In the order in which they are told.
        tells: Whether this process tells anybody.
    """
    if not tells:
        yield Nobody()
        return
    manager = installed_plugins().manager
    with ExitStack() as stack:
        for listener in reversed(listeners):
            stack.callback(getattr(listener, "close", lambda: None))
            manager.register(listener)
            stack.callback(manager.unregister, listener)
        yield Events(manager)


def _kept(loop: Loop, path: Path, chosen: Sequence[Any]) -> AbstractContextManager[Any]:
    """Let what writes to the folder hear of the run before all others, and be done before it is left."""
    first = loop.parts.ranks.first
    kinds: list[Any] = [StartFile, JsonLines, CkaMapLines, SkippedLog, ModelCard, ReportPage]
    return _heard([*(kind(path) for kind in kinds if first), *chosen], tells=first)
