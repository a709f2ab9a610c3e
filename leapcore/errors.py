"""Errors that a user can mend: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class LeapcoreError(Exception):
    """A mistake in the input or on the machine, never a fault of leapcore itself.

    The command line prints it without a traceback and ends with ``exit_code``.

    Args:
        cause: What is wrong and where, in one line.
        remedy: What to do about it.

    Example:
        >>> from leapcore import load_spec
        >>> try:
        ...     load_spec("quickstrat")
        ... except LeapcoreError as error:
        ...     print(error.cause)
        'quickstrat' is neither a file nor a recipe
    """

    exit_code = 2
    shared = False  # whether every process of the run raises it

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __reduce__(self) -> Any:
        return type(self), (self.cause, self.remedy)  # as they are now, for other processes

    def __str__(self) -> str:
        return f"{self.cause}\n{self.remedy}" if self.remedy else self.cause


class SpecError(LeapcoreError):
    """The spec cannot be read, or a value in it is wrong."""


class UnknownNameError(LeapcoreError):
    """A name that no plugin registered."""


class PluginError(LeapcoreError):
    """A plugin cannot be loaded, or breaks the rules of its hook."""


class WeightsError(LeapcoreError):
    """Model weights are missing, unreadable or made for another architecture."""


class DataError(LeapcoreError):
    """The images cannot be found or used."""


class OutputError(LeapcoreError):
    """The output folder cannot take this run."""


class BenchError(LeapcoreError):
    """Cells of a benchmark failed."""


class ReportError(LeapcoreError):
    """A folder holds nothing to report of, or cannot take the report."""


class CountingError(LeapcoreError):
    """An operator's cost is not known, so a FLOPs figure would be a guess."""


class DivergedError(LeapcoreError):
    """The loss is not a number any more."""


class CheckpointError(LeapcoreError):
    """A checkpoint is missing, broken, or of another run."""


class RanksError(LeapcoreError):
    """The processes of a run disagree, or one of them is gone."""


class ResourceError(LeapcoreError):
    """Memory or disk is short."""


class Interrupted(LeapcoreError):
    """The user stopped the run; what was done so far is kept."""

    exit_code = 130  # the shell's code for an end by SIGINT


class Terminated(Interrupted):
    """The system stopped the run, such as a cluster that needs the machine."""

    exit_code = 143  # the shell's code for an end by SIGTERM


def shared(error: LeapcoreError) -> LeapcoreError:
    """Mark an error that every process raises alike, so that it is printed once."""
    error.shared = True
    return error


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """A context that puts a prefix such as ``teachers.dino`` before the causes of its errors."""
    try:
        yield
    except LeapcoreError as error:
        error.cause = f"{prefix}: {error.cause}"
        raise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a sentence, all of them where none is near."""
    names = sorted(known)
    longer = sorted((other for other in names if len(name) > 2 and name in other), key=len)
    near = longer or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(names)}." if names else ""


def short_message(error: BaseException) -> str:
    """Another library's message in a line; a mismatch of weights can name hundreds of tensors."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def describe_error(error: BaseException) -> str:
    """Another library's error in a line: its type, its message, and the file and line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} ({Path(frame.filename).name}:{frame.lineno})"
