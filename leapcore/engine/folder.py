"""A run's output folder: what it holds, and who may write to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from leapcore.engine import lock
from leapcore.engine.checkpoint import Checkpoint, Checkpoints
from leapcore.engine.lock import FolderLock
from leapcore.errors import CheckpointError, OutputError
from leapcore.events import RunReport, TargetChange
from leapcore.spec import Spec

# All that a run writes. Nothing else is ever deleted.
SPEC, STUDENT = "spec.yaml", "student"
METRICS = "metrics.jsonl"
FILES = (SPEC, METRICS, "summary.json", "skipped.log")
FOLDERS = ("tensorboard", STUDENT, "checkpoints", "exports")
MARKS = (SPEC, METRICS)  # a spec alone may be the user's own


class RunFolder:
    """``runs/<name>`` unless the user names another folder; of this process alone until :meth:`close`.

    Args:
        path: The folder, which need not exist yet.
        overwrite: Replace the results of an earlier run.
        resume: Go on with that run: ``"latest"`` or a checkpoint's name; ``"auto"`` starts anew where there
            is no checkpoint.

    Attributes:
        resumes: Name of the checkpoint to go on from, None for a new run.

    Raises:
        OutputError: The folder holds a run that is not to be replaced, or something else, or is in use.
        CheckpointError: There is nothing to go on from.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: str | None = None) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.resumes: str | None = None
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
        latest = self.checkpoints.latest()
        if resume is not None and (latest or resume != "auto"):
            self.resumes = self._known(latest if resume in ("auto", "latest") else resume)
            return
        found = {item.name for item in self.path.iterdir()} - {lock.NAME}
        if not found:
            return
        if not all((self.path / name).exists() for name in MARKS):
            raise OutputError(
                f"output folder '{self.path}' holds other files, not a run",
                "Name another folder with --output.",
            )
        if not overwrite and (resume != "auto" or self.status == "finished"):
            on = "Go on with it with --resume, replace" if latest else "Replace"
            raise OutputError(
                f"output folder '{self.path}' already holds {self._described()}",
                f"{on} it with --overwrite, or keep both with --output DIR.",
            )

    def _known(self, name: str | None) -> str:
        if name in (names := self.checkpoints.names()):
            return name
        wanted = f"no checkpoint '{name}'" if name else "no checkpoint"
        raise CheckpointError(
            f"there is {wanted} in '{self.path}' to go on from",
            f"There are: {', '.join(names)}." if names else "Start the run without --resume.",
        )

    def close(self) -> None:
        """Let others in."""
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

    def open(self, spec: Spec, step: int = 0) -> None:
        """Make ready for a run: put an earlier one's results aside, or take back what came after ``step``."""
        try:
            self.checkpoints.clean()
            if self.resumes:
                self._cut_metrics(step)
                (self.path / SPEC).write_text(spec.to_yaml())
                return
            if self._aside.exists():  # a killed start left it; what is in its place holds nothing yet
                _delete_results(self.path)
            _move_results(self.path, self._aside)
            self._write_marks(spec)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _cut_metrics(self, step: int) -> None:
        """Keep the lines up to a step; a killed run may have written more, and half a line."""
        lines = (self.path / METRICS).read_text().splitlines(keepends=True)
        partial = self.path / (METRICS + ".tmp")
        partial.write_text("".join(line for line in lines if _step_of(line) <= step))
        partial.replace(self.path / METRICS)

    def _write_marks(self, spec: Spec) -> None:
        try:
            (self.path / SPEC).write_text(spec.to_yaml())
            (self.path / METRICS).touch()
        except OSError:
            self.abandon()
            raise

    def settle(self) -> None:
        """The run has taken its first step: it replaces the earlier one."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def abandon(self) -> None:
        """The run failed before its first step: leave everything as it was before :meth:`open`."""
        if self.resumes:
            return
        _delete_results(self.path)
        if self._aside.exists():
            _move_results(self._aside, self.path)
            self._aside.rmdir()

    @property
    def _aside(self) -> Path:
        return self.path / ".replaced"

    def write_student(self, export: Callable[[Path], None]) -> None:
        """Export the student, whole or not at all.

        Args:
            export: Writes it into the folder that it is given.
        """
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
        text = json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2, default=str)
        partial = self.path / "summary.json.tmp"
        partial.write_text(text + "\n")
        partial.replace(self.path / "summary.json")

    def report(self) -> RunReport:
        """What the finished run in here achieved."""
        told = json.loads((self.path / "summary.json").read_text())
        changes = [TargetChange(**change) for change in told.pop("curriculum")]
        return RunReport(**(told | {"folder": self.path, "curriculum": changes}))

    def is_finished(self, spec: Spec) -> bool:
        """Whether the run in here is finished, and was this one."""
        return self.status == "finished" and (self.path / SPEC).read_text() == spec.to_yaml()

    @property
    def status(self) -> str:
        """How the run in here ended, as its summary says."""
        try:
            status = json.loads((self.path / "summary.json").read_text())["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return "unfinished"
        return str(status) or "unfinished"

    def _described(self) -> str:
        return f"{'an' if self.status[0] in 'aeiou' else 'a'} {self.status} run"


class Elsewhere:
    """Stands for the folder where the first of several processes writes and this one does not.

    Args:
        path: The folder.
    """

    resumes = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.student = path / STUDENT

    def is_finished(self, spec: Spec) -> bool:
        """The first process knows."""
        return False

    def saved(self) -> None:
        """The first process reads it."""

    def open(self, spec: Spec, step: int = 0) -> None:
        """The first process does."""

    def settle(self) -> None:
        """The first process does."""

    def abandon(self) -> None:
        """The first process does."""

    def close(self) -> None:
        """The first process does."""

    def write_student(self, export: Callable[[Path], None]) -> None:
        """The first process does."""

    def write_summary(self, report: RunReport) -> None:
        """The first process does."""


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"output folder '{path}' cannot be written: {error}",
        "Free some space, mend its permissions, or name another folder with --output.",
    )


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _move_results(source: Path, target: Path) -> None:
    found = [source / name for name in (*FILES, *FOLDERS) if (source / name).exists()]
    if found:
        target.mkdir(exist_ok=True)
    for item in found:
        item.rename(target / item.name)


def _delete_results(folder: Path) -> None:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
