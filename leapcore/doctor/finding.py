"""What a check finds, and running checks so that none can take another down."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from leapcore.errors import described

State = Literal["ok", "warning", "problem"]

TIMEOUT = 120  # seconds for one check; importing torch from a slow network disk takes many
# What launchers say; a process that is told it is one of several would wait for the others.
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS")


class Finding(NamedTuple):
    """What one look showed.

    Attributes:
        state: ``problem``: something that every run needs is broken.
        said: What was found, in a line.
        remedy: What to do, in a line; empty where nothing has to be done.
    """

    state: State
    said: str
    remedy: str = ""


class Check(NamedTuple):
    """Something to look at.

    Attributes:
        name: How the report calls it.
        look: Looks, in a process of its own.
        remedy: What to do if looking itself fails.
        needs: The check without which this one would only say the same again.
    """

    name: str
    look: Callable[[], Iterable[Finding]]
    remedy: str
    needs: str = ""


def examine(checks: Sequence[Check], patience: float = TIMEOUT) -> Iterator[tuple[str, list[Finding]]]:
    """Findings check by check, as they come.

    The checks share a process that imports what they look at. Where that process dies, or does not answer,
    that is a finding, and another one goes on with the next check.

    Args:
        checks: What to look at, in this order.
        patience: Seconds to wait for a check.
    """
    looker, broken = _Looker(), set[str]()
    for check in checks:
        if check.needs in broken:
            said = f"not looked at, since {check.needs} is broken"
            found = [Finding("warning", said, f"Mend {check.needs} first.")]
        else:
            looker = _Looker() if looker.gone else looker
            found = looker.look(check, patience)
        if worst(found) == "problem":
            broken.add(check.name)
        yield check.name, found


def worst(findings: Iterable[Finding]) -> State:
    """The gravest state among them."""
    states = {finding.state for finding in findings}
    grave: tuple[State, ...] = ("problem", "warning")
    return next((state for state in grave if state in states), "ok")


class _Looker:
    """A process that looks at one thing after the other.

    Attributes:
        gone: Whether it has died or was given up.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._talk, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.gone = False

    def look(self, check: Check, patience: float) -> list[Finding]:
        """What it found, or how it ended."""
        try:
            self._talk.send(check)
            if self._talk.poll(patience):
                found: list[Finding] = self._talk.recv()
                return found
            said = f"no answer within {patience:g} s"
        except (EOFError, ConnectionError):
            self._process.join()
            said = f"the process that looked at it was ended: {_end(self._process.exitcode or 0)}"
        self._process.kill()
        self.gone = True
        return [Finding("problem", said, check.remedy)]


def _work(talk: Any) -> None:
    """Look at what is asked for; what libraries print meanwhile is nobody's."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    for name in _LAUNCHERS:
        os.environ.pop(name, None)
    with suppress(EOFError):  # nothing more is asked
        while True:
            talk.send(look(talk.recv()))


def look(check: Check) -> list[Finding]:
    """A check's findings in this process; that it fails is one."""
    try:
        return list(check.look())
    # Whatever a broken library raises: it is what was looked for.
    except (Exception, SystemExit) as error:
        return [Finding("problem", described(error), check.remedy)]


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
