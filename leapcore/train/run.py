"""A whole run: build, train, write the student, evaluate, report."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapcore.checkpoints.resume import check_changes, check_length
from leapcore.checkpoints.saver import Saver
from leapcore.core.duration import Duration
from leapcore.distributed.ranks import Ranks, join
from leapcore.errors import shared
from leapcore.export.student import export_student
from leapcore.listeners.attach import attached, file_listeners, screen_listeners
from leapcore.listeners.chosen import chosen_listeners
from leapcore.plugins.dispatch import Events
from leapcore.plugins.events import RunReport
from leapcore.runs.folder import RunFolder
from leapcore.spec import Spec
from leapcore.spec.file import load_spec, log_warnings
from leapcore.train.build import build
from leapcore.train.cka_maps import measure_cka_maps, whole_student
from leapcore.train.evaluate import final_accuracies
from leapcore.train.loop import Loop
from leapcore.train.machine_errors import machine_errors_explained
from leapcore.train.report import ended_by, position, run_report, run_start, stop_error
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
        resume: Continue the run in that folder: from its ``"latest"`` checkpoint or the named one;
            ``"auto"`` from the latest if there is one, else from the start.
        listeners: Objects with hooks such as ``leapcore_metrics``, called in the first process, beside
            those that the spec names.
        progress: Show the progress, as ``leapcore run`` does; if None, in a notebook only.

    Returns:
        What the run achieved; of a run that was finished before, what it achieved then.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit; nothing was left behind.
        CheckpointError: There is none to continue from, it is broken, or a setting changed that may not.
        DivergedError: The loss is not finite any more.
        Interrupted: Ctrl-C, or its subclass Terminated: SIGTERM. The run is saved.

    After the first step the student so far and a summary are in the folder, whatever ended the run.

    Example:
        >>> import leapcore, tempfile
        >>> short = ["train.duration=1st", "evaluate={knn: never, linear: never}"]
        >>> spec = leapcore.load_spec("quickstart", short)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = leapcore.run(spec, output=folder)
        >>> report.status, report.steps
        ('finished', 1)
    """
    started, spec, ranks = time.perf_counter(), load_spec(spec), join()
    path = Path(output or Path("runs") / spec.name)
    with attached([*listeners, *screen_listeners(progress)], active=ranks.is_first) as events:
        folder = ranks.on_all(
            lambda: RunFolder(path, overwrite=overwrite, resume=resume, writes=ranks.is_first)
        )
        try:
            if ranks.broadcast(resume in ("auto", "latest") and folder.is_finished(spec)):
                return ranks.broadcast(folder.report() if ranks.is_first else None)  # type: ignore[return-value]
            return Run(spec, folder, ranks, events, started).execute()
        finally:
            folder.close()


class Run:
    """One run in its folder.

    Args:
        spec: What is run.
        folder: Its results, which no other process may write to meanwhile.
        ranks: The processes that share the work.
        events: Receives what happens.
        started: When it began, by ``time.perf_counter()``.
    """

    def __init__(self, spec: Spec, folder: RunFolder, ranks: Ranks, events: Events, started: float) -> None:
        self.spec, self.folder, self.ranks, self.events, self.started = spec, folder, ranks, events, started

    def execute(self) -> RunReport:
        """All of it, in order; after the first step, student and summary are written, whatever ends it."""
        listeners = chosen_listeners(self.spec)
        log_warnings(self.spec)
        with machine_errors_explained(lambda: "before the first step"):
            self.build()
            trained = self.loop.step == self.parts.length.total_steps
            self.ranks.on_all(lambda: self.folder.open(self.spec, self.loop.step, trained=trained))
        try:
            with (
                machine_errors_explained(lambda: position(self.loop)),
                attached([*file_listeners(self.folder.path), *listeners], active=self.ranks.is_first),
            ):
                self.events.run_started(run_start(self.loop, self.folder))
                self.train()
                report = self.write_results("interrupted" if self.loop.stopped else "trained")
                if self.loop.stopped:
                    self.events.run_finished(report)
                    raise shared(stop_error(self.loop, self.folder, self.saver.problem))
                return self.evaluate(report)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Sigterm):
                self.loop.stopped = signal.SIGTERM
            raise stop_error(self.loop, self.folder, self.saver.problem) from None
        finally:
            if self.loop.step:
                self.folder.settle()
            else:
                self.folder.abandon()

    def build(self) -> None:
        """The loop before its first step, or where a checkpoint left it."""
        ranks = self.ranks
        saved = ranks.broadcast(ranks.on_all(self.folder.saved))
        if saved:
            ranks.on_all(lambda: check_changes(saved, self.spec))
        self.parts = parts = build(self.spec, ranks, saved, self.events.stage)
        self.loop = loop = Loop(parts, self.events, self.started)
        if saved:
            images = len(parts.splits.train)
            ranks.on_all(lambda: check_length(saved, parts.length.total_steps, images))
            ranks.on_all(lambda: restore(loop, saved))
        self.saver = Saver(
            self.folder.checkpoints if ranks.is_first else None,
            self.spec.checkpoint,
            parts.length.steps_per_epoch,
            lambda: snapshot(loop),
            loop.step,
        )

    def train(self) -> None:
        """Take all steps; where they fail, the student so far is written before the error goes on."""
        if self.loop.step == 0 and isinstance(self.spec.evaluate.cka_map, Duration):
            measure_cka_maps(self.parts, 0, self.events)
        try:
            with machine_errors_explained(lambda: position(self.loop)):
                self.loop.fit(self.saver)
        except BaseException as error:
            # Processes that fail alone cannot put partitioned weights together.
            if self.loop.step and (self.ranks.size == 1 or self.spec.engine.zero_stage < 3):
                self.events.run_finished(self.write_results(*ended_by(error)))
            raise
        self.events.stage("writing the student")

    def write_results(self, status: str, error: str = "") -> RunReport:
        """Export the student as it is, and write a summary without accuracies."""
        student = whole_student(self.parts)
        self.folder.write_student(lambda path: export_student(student, path, self.spec.data.crop))
        report = run_report(self.loop, self.folder, status, error)
        self.folder.write_summary(report)
        return report

    def evaluate(self, report: RunReport) -> RunReport:
        """Measure what the spec asks for at the end, and write the summary anew, whatever ends this."""
        try:
            with machine_errors_explained(lambda: position(self.loop)):
                self.measure(report)
            report.status = "finished"
        except BaseException as error:
            report.status, report.error = ended_by(error)
            raise
        finally:
            report.time["seconds"] = time.perf_counter() - self.loop.started
            self.folder.write_summary(report)
            self.events.stage("drawing the report")
            self.events.run_finished(report)
        return report

    def measure(self, report: RunReport) -> None:
        """What is known of the student when its training is over."""
        if self.spec.evaluate.cka_map != "never":
            measure_cka_maps(self.parts, self.loop.step, self.events)
        if self.spec.evaluate.measures_accuracy:
            self.events.stage("evaluating")
        accuracy = self.ranks.on_all(lambda: final_accuracies(self.parts) if self.ranks.is_first else {})
        report.accuracy = self.ranks.broadcast(accuracy)
        if report.accuracy:
            self.events.metrics(self.loop.step, report.accuracy)
