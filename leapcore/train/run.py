"""A whole run: build, train, evaluate, export, report."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapcore.checkpoints.resume import check_changes, check_length
from leapcore.checkpoints.saver import Saver
from leapcore.core.duration import Duration
from leapcore.distributed.ranks import join
from leapcore.errors import shared
from leapcore.export.student import export_student
from leapcore.listeners.attach import attached, file_listeners, screen_listeners
from leapcore.listeners.chosen import chosen_listeners
from leapcore.plugins.events import RunReport
from leapcore.runs.folder import RunFolder
from leapcore.spec import Spec
from leapcore.spec.file import load_spec, warn_of_doubts
from leapcore.train.cka_maps import tell_cka_maps
from leapcore.train.evaluate import current_student, final_accuracies
from leapcore.train.loop import Loop
from leapcore.train.machine_errors import machine_faults_told
from leapcore.train.report import ended_by, run_report, run_start, stopped, whereabouts
from leapcore.train.setup import build
from leapcore.train.signals import Sigterm
from leapcore.train.state import restore, snapshot


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
    with attached([*listeners, *screen_listeners(progress)], active=ranks.first) as hooks:
        return _run_in(path, spec, overwrite, resume, hooks, started)


def _run_in(
    path: Path, spec: Spec, overwrite: bool, resume: str | None, hooks: Any, started: float
) -> RunReport:
    """A run in its folder, which nobody else may use meanwhile."""
    ranks = join()
    folder = ranks.together(lambda: RunFolder(path, overwrite=overwrite, resume=resume, writes=ranks.first))
    try:
        if ranks.told_by_first(resume in ("auto", "latest") and folder.is_finished(spec)):
            return ranks.told_by_first(folder.report() if ranks.first else None)  # type: ignore[return-value]
        return _run(spec, folder, hooks, started)
    finally:
        folder.close()


def _run(spec: Spec, folder: RunFolder, hooks: Any, started: float) -> RunReport:
    chosen = chosen_listeners(spec)
    warn_of_doubts(spec)
    with machine_faults_told(lambda: "before the first step"):
        loop = _loop(spec, folder, hooks, started)
    parts = loop.parts
    trained, first = loop.step == parts.total_steps, parts.ranks.first
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
        with (
            machine_faults_told(lambda: whereabouts(loop)),
            attached([*file_listeners(folder.path), *chosen], active=first),
        ):
            return _train_and_report(loop, saver, folder)
    except KeyboardInterrupt as stop:
        if isinstance(stop, Sigterm):
            loop.stopped = signal.SIGTERM
        raise stopped(loop, folder, saver.problem) from None
    finally:
        if loop.step:
            folder.settle()
        else:
            folder.abandon()


def _loop(spec: Spec, folder: RunFolder, hooks: Any, started: float) -> Loop:
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


def _train_and_report(loop: Loop, saver: Saver, folder: RunFolder) -> RunReport:
    """Whatever ends a run after its first step, the student so far and a summary are written."""
    loop.hooks.leapcore_run_started(start=run_start(loop, folder))
    report = _train(loop, saver, folder)
    try:
        with machine_faults_told(lambda: whereabouts(loop)):
            _evaluate(loop, report)
        report.status = "finished"
    except BaseException as error:
        report.status, report.error = ended_by(error)
        raise
    finally:
        report.time["seconds"] = time.perf_counter() - loop.started
        folder.write_summary(report)
        loop.hooks.leapcore_stage(stage="drawing the report")
        loop.hooks.leapcore_run_finished(report=report)
    return report


def _train(loop: Loop, saver: Saver, folder: RunFolder) -> RunReport:
    parts = loop.parts
    if loop.step == 0 and isinstance(parts.spec.evaluate.cka_map, Duration):
        tell_cka_maps(parts, 0, loop.hooks)
    try:
        with machine_faults_told(lambda: whereabouts(loop)):
            loop.fit(saver)
    except BaseException as error:
        # Processes that fail alone cannot put partitioned weights together.
        if loop.step and (parts.ranks.size == 1 or parts.spec.engine.zero_stage < 3):
            loop.hooks.leapcore_run_finished(report=_write_results(loop, folder, *ended_by(error)))
        raise
    loop.hooks.leapcore_stage(stage="writing the student")
    report = _write_results(loop, folder, "interrupted" if loop.stopped else "trained")
    if loop.stopped:
        loop.hooks.leapcore_run_finished(report=report)
        raise shared(stopped(loop, folder, saver.problem))
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


def _write_results(loop: Loop, folder: RunFolder, status: str, error: str = "") -> RunReport:
    student = current_student(loop.parts)
    folder.write_student(lambda path: export_student(student, path, loop.parts.spec.data.crop))
    report = run_report(loop, folder, status, error)
    folder.write_summary(report)
    return report
