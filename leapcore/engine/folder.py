"""A run's output folder: what it holds, and who may write to it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from leapcore.errors import OutputError
from leapcore.events import RunReport
from leapcore.spec import Spec

# All that a run writes. Nothing else is ever deleted.
SPEC, STUDENT = "spec.yaml", "student"
FILES = (SPEC, "metrics.jsonl", "summary.json")
FOLDERS = ("tensorboard", STUDENT)
MARKS = (SPEC, "metrics.jsonl")  # a spec alone may be the user's own


class RunFolder:
    """``runs/<name>`` unless the user names another folder.

    Args:
        path: The folder, which need not exist yet.
        overwrite: Replace the results of an earlier run.

    Raises:
        OutputError: The folder holds a run that is not to be replaced, or something else.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise OutputError(f"output '{path}' is a file", "Name a folder with --output.")
        if not path.exists() or not any(path.iterdir()):
            return
        if not all((path / name).exists() for name in MARKS):
            raise OutputError(
                f"output folder '{path}' holds other files, not a run", "Name another folder with --output."
            )
        if not overwrite:
            raise OutputError(
                f"output folder '{path}' already holds {self._described()}",
                "Replace it with --overwrite, or keep both with --output DIR.",
            )

    @property
    def student(self) -> Path:
        """Where the student is exported to."""
        return self.path / STUDENT

    def open(self, spec: Spec) -> None:
        """Make the folder, put the results of an earlier run aside, and write the resolved spec."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._aside.exists():  # a killed start left it; what is in its place holds nothing yet
                _delete_results(self.path)
            _move_results(self.path, self._aside)
            self._write_marks(spec)
        except OSError as error:
            raise OutputError(
                f"output folder '{self.path}' cannot be written: {error}",
                "Free some space, mend its permissions, or name another folder with --output.",
            ) from error

    def _write_marks(self, spec: Spec) -> None:
        try:
            (self.path / SPEC).write_text(spec.to_yaml())
            (self.path / "metrics.jsonl").touch()
        except OSError:
            self.abandon()
            raise

    def settle(self) -> None:
        """The run has taken its first step: it replaces the earlier one."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def abandon(self) -> None:
        """The run failed before its first step: leave everything as it was before :meth:`open`."""
        _delete_results(self.path)
        if self._aside.exists():
            _move_results(self._aside, self.path)
            self._aside.rmdir()
        elif self.path.exists() and not any(self.path.iterdir()):
            self.path.rmdir()

    @property
    def _aside(self) -> Path:
        return self.path / ".replaced"

    def write_summary(self, report: RunReport) -> None:
        """Write ``summary.json``, whole or not at all."""
        text = json.dumps(asdict(report) | {"folder": str(report.folder)}, indent=2, default=str)
        partial = self.path / "summary.json.tmp"
        partial.write_text(text + "\n")
        partial.replace(self.path / "summary.json")

    def _described(self) -> str:
        try:
            status = json.loads((self.path / "summary.json").read_text())["status"]
        except (OSError, ValueError, KeyError):
            status = "unfinished"
        return f"{'an' if status[0] in 'aeiou' else 'a'} {status} run"


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
