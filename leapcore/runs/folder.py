"""A run's output folder: what it holds, and who may write to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from leapcore.checkpoints.files import Checkpoint, Checkpoints
from leapcore.errors import CheckpointError, OutputError
from leapcore.files import remove_partial, write_whole
from leapcore.plugins.events import RunReport
from leapcore.runs.lock import FolderLock
from leapcore.runs.names import (
    BEGUN,
    CHECKPOINTS,
    CKA_MAPS,
    FILES,
    LOCK,
    METRICS,
    REPORTS,
    SKIPPED,
    SPEC,
    STUDENT,
    SUMMARY,
)
from leapcore.runs.reader import Run
from leapcore.runs.result_files import came_before, delete_results, move_results, step_of_skipped
from leapcore.runs.state import State
from leapcore.spec import Spec


class RunFolder:
    """``runs/<name>`` unless the user names another folder; of this process alone until :meth:`close`.

    Args:
        path: The folder, which need not exist yet.
        overwrite: Replace the results of an earlier run.
        resume: Go on with that run: ``"latest"`` or a checkpoint's name; ``"auto"`` starts anew where there
            is no checkpoint.
        writes: Whether this process writes. Of several, the first one does it for all; in the others, nothing
            is locked, read or changed.

    Attributes:
        resumes: Name of the checkpoint to go on from, None for a new run.

    Raises:
        OutputError: The folder holds a run that is not to be replaced, or something else, or is in use.
        CheckpointError: There is nothing to go on from.
    """

    def __init__(
        self, path: Path, *, overwrite: bool = False, resume: str | None = None, writes: bool = True
    ) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / CHECKPOINTS)
        self.resumes: str | None = None
        self._writes = writes
        if not writes:
            return
        if path.exists() and not path.is_dir():
            raise OutputError(f"output '{path}' is a file", "Name a folder with --output.")
        try:
            self._lock = FolderLock(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            self._check(overwrite, resume)
        except BaseException:
            self.close()
            raise

    def _check(self, overwrite: bool, resume: str | None) -> None:
        """Find out whether this is a new run, a replaced one, or one that goes on."""
        self._mend()
        latest = self.checkpoints.latest()
        if resume is not None and (latest or resume != "auto"):
            self.resumes = self._known(latest if resume in ("auto", "latest") else resume)
            return
        if not {item.name for item in self.path.iterdir()} - {LOCK}:
            return
        if not all((self.path / name).exists() for name in BEGUN):
            raise OutputError(
                f"output folder '{self.path}' holds other files, not a run",
                "Name another folder with --output.",
            )
        state = Run(self.path).state
        if not overwrite and (resume != "auto" or state is State.FINISHED):
            article = "an" if state is State.INTERRUPTED else "a"
            on = "Go on with it with --resume, replace" if latest else "Replace"
            raise OutputError(
                f"output folder '{self.path}' already holds {article} {state} run",
                f"{on} it with --overwrite, or keep both with --output DIR.",
            )

    def _mend(self) -> None:
        """Undo what a kill left half done; nothing of a run is lost by it."""
        shutil.rmtree(self._dropped, ignore_errors=True)
        for name in FILES:
            remove_partial(self.path / name)
        metrics, begun = self.path / METRICS, (self.path / SPEC).exists()
        if not begun and metrics.exists() and not metrics.stat().st_size:
            metrics.unlink()  # the very start of a start
        if self._aside.exists() and not (begun and (self._aside / SPEC).exists()):  # see move_results
            move_results(self._aside, self.path)
            self._aside.rmdir()

    def _known(self, name: str | None) -> str:
        if name in (names := self.checkpoints.names()):
            return name
        checkpoint = f"checkpoint '{name}'" if name else "checkpoint"
        raise CheckpointError(
            f"there is no {checkpoint} in '{self.path}' to go on from",
            f"There are: {', '.join(names)}." if names else "Start the run without --resume.",
        )

    def close(self) -> None:
        """Let others in."""
        if self._writes:
            self._lock.release()

    @property
    def student(self) -> Path:
        """Where the student is exported to."""
        return self.path / STUDENT

    def saved(self) -> Checkpoint | None:
        """What the run goes on from, None for a new one.

        Raises:
            CheckpointError: It is broken; the message names the one before.
        """
        return self.checkpoints.load(self.resumes) if self.resumes else None

    def open(self, spec: Spec, step: int = 0, *, trained: bool = False) -> None:
        """Make ready: put an earlier run's results aside, or take back what came after a checkpoint.

        Args:
            spec: The run.
            step: The checkpoint's.
            trained: Whether it was the last one, so that final evaluations came after it.
        """
        if not self._writes:
            return
        try:
            self.checkpoints.clean()
            if self.resumes:
                self.checkpoints.point_at(self.resumes)
                for name in (SUMMARY, *REPORTS):  # of an earlier end
                    (self.path / name).unlink(missing_ok=True)
                for name in (METRICS, CKA_MAPS):
                    self._cut(name, lambda line: came_before(line, step, trained=trained))
                self._cut(SKIPPED, lambda line: step_of_skipped(line) < step)
                self._write_spec(spec)
                return
            if self._aside.exists():  # a killed start left it; what is in its place holds nothing yet
                delete_results(self.path)
            move_results(self.path, self._aside, out=True)
            self._write_marks(spec)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _cut(self, name: str, keeps: Callable[[str], bool]) -> None:
        """Keep the lines up to a checkpoint; a killed run may have written more, and half a line."""
        if not (self.path / name).exists():
            return
        lines = (self.path / name).read_text().splitlines(keepends=True)
        self._write_whole(name, "".join(line for line in lines if keeps(line)))

    def _write_whole(self, name: str, text: str) -> None:
        write_whole(self.path / name, text)

    def _write_spec(self, spec: Spec) -> None:
        self._write_whole(SPEC, spec.to_yaml())

    def _write_marks(self, spec: Spec) -> None:
        try:
            (self.path / METRICS).touch()
            self._write_spec(spec)
        except OSError:
            self.abandon()
            raise

    def settle(self) -> None:
        """The run has taken its first step: it replaces the earlier one."""
        if self._writes and self._aside.exists():
            self._aside.rename(self._dropped)
            shutil.rmtree(self._dropped, ignore_errors=True)

    def abandon(self) -> None:
        """The run failed before its first step: leave everything as it was before :meth:`open`."""
        if self.resumes or not self._writes:
            return
        delete_results(self.path)
        if self._aside.exists():
            move_results(self._aside, self.path)
            self._aside.rmdir()

    @property
    def _aside(self) -> Path:
        return self.path / ".replaced"

    @property
    def _dropped(self) -> Path:
        return self.path / ".replaced.dropped"

    def write_student(self, export: Callable[[Path], None]) -> None:
        """Export the student, whole or not at all.

        Args:
            export: Writes it into the folder that is its argument.
        """
        if not self._writes:
            return
        partial = self.path / f".{STUDENT}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            export(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(self.student, ignore_errors=True)
        partial.rename(self.student)

    def write_summary(self, report: RunReport) -> None:
        """Write ``summary.json``, whole or not at all."""
        if self._writes:
            text = json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2, default=str)
            self._write_whole(SUMMARY, text + "\n")

    def report(self) -> RunReport:
        """What the finished run in here achieved."""
        return Run(self.path).summary

    def is_finished(self, spec: Spec) -> bool:
        """Whether the run in here is finished, and was this one; the process that writes knows."""
        run = Run(self.path)
        return self._writes and run.state is State.FINISHED and run.spec == spec.to_yaml()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"output folder '{path}' cannot be written: {error}",
        "Free some space, mend its permissions, or name another folder with --output.",
    )
