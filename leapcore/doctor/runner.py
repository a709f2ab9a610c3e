"""Running checks; those that can end Python, or never return, run in another process."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

from leapcore.errors import describe_error

State = Literal["ok", "warning", "problem"]

TIMEOUT = 120  # seconds for one check; importing torch from a slow network disk takes many
# Set by launchers; a process that takes itself for one of several would wait for the others.
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_NUM_TASKS")


class Finding(NamedTuple):
    """A result of a check.

    Attributes:
        state: ``problem``: something that every run needs is broken.
        message: What is there, or what is wrong, in a line.
        remedy: What to do, in a line; empty where nothing has to be done.
    """

    state: State
    message: str
    remedy: str = ""


class Check(NamedTuple):
    """Something that the doctor checks.

    Attributes:
        name: Its name in the report.
        run: Yields the findings.
        remedy: What to do if the check itself fails.
        needs: The check without which this one would only repeat the same problem.
        isolated: Run it in another process, since it can end Python itself, or never return.
    """

    name: str
    run: Callable[[], Iterable[Finding]]
    remedy: str
    needs: str = ""
    isolated: bool = False


def run_checks(checks: Sequence[Check], timeout: float = TIMEOUT) -> Iterator[tuple[str, list[Finding]]]:
    """The findings of each check, as soon as it has run.

    Args:
        checks: The checks in their order.
        timeout: Seconds to wait for an isolated one.
    """
    broken = set[str]()
    for check in checks:
        if check.needs in broken:
            message = f"not checked, since {check.needs} is broken"
            findings = [Finding("warning", message, f"Mend {check.needs} first.")]
        else:
            findings = _run_isolated(check, timeout) if check.isolated else run_check(check)
        if worst(findings) == "problem":
            broken.add(check.name)
        yield check.name, findings


def worst(findings: Iterable[Finding]) -> State:
    """The gravest state among the findings."""
    states = {finding.state for finding in findings}
    grave: tuple[State, ...] = ("problem", "warning")
    return next((state for state in grave if state in states), "ok")


def run_check(check: Check) -> list[Finding]:
    """The findings of a check that runs in this process; an error is one, too."""
    try:
        with redirect_stdout(StringIO()):  # what libraries print while they are imported
            return list(check.run())
    # A broken library can raise anything, which is what a check is for.
    except (Exception, SystemExit) as error:
        return [Finding("problem", describe_error(error), check.remedy)]


def _run_isolated(check: Check, timeout: float) -> list[Finding]:
    """The findings of a check that runs in a process of its own; that this ends or hangs is one, too."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_findings, args=(check, sender), daemon=True)
    process.start()
    sender.close()
    try:
        if receiver.poll(timeout):
            findings: list[Finding] = receiver.recv()
            return findings
        message = f"no answer within {timeout:g} s"
    except EOFError:
        process.join()
        message = f"the process of this check was ended: {_ending(process.exitcode or 0)}"
    process.kill()
    return [Finding("problem", message, check.remedy)]


def _send_findings(check: Check, sender: Connection) -> None:
    """Run a check with all output of libraries dropped, that of compiled code included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    for name in _LAUNCHERS:
        os.environ.pop(name, None)
    sender.send(run_check(check))


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
