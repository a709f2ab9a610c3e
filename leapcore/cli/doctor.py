"""``leapcore doctor``: whether this machine can run leapcore, and what to mend."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leapcore._version import __version__
from leapcore.cli.common import console, plain
from leapcore.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from leapcore.doctor.finding import Finding

    Found = dict[str, list[Finding]]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings for programs.")] = False,
) -> None:
    """Check whether this machine can run leapcore.

    Looked at are versions, GPUs, DeepSpeed, plugins, disks and threads; exit code 1 if a run cannot work.
    """
    from leapcore.doctor.finding import worst

    _require_folder()
    found = _examined(None if as_json else console())
    state = worst(finding for findings in found.values() for finding in findings)
    if as_json:
        rows = [{"check": name, **one._asdict()} for name, findings in found.items() for one in findings]
        typer.echo(json.dumps({"state": state, "leapcore": __version__, "findings": rows}, indent=2))
    raise typer.Exit(1 if state == "problem" else 0)


def _require_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:  # no process can be started from there
        raise OutputError("the current folder is not there any more", "Change to another one.") from error


def _examined(terminal: Console | None) -> Found:
    """All findings, told as they come where somebody watches."""
    from leapcore.doctor.checks import CHECKS
    from leapcore.doctor.finding import examine

    if terminal is None:
        return dict(examine(CHECKS))
    python = f"Python {platform.python_version()} ({sys.executable})"
    plain(terminal, f"leapcore {__version__}, {python}, {platform.platform()}")
    found: Found = {}
    with terminal.status("looking"):
        for name, findings in examine(CHECKS):
            found[name] = findings
            _tell(terminal, name, findings)
    plain(terminal, _sum(found))
    return found


def _tell(terminal: Console, name: str, findings: list[Finding]) -> None:
    for finding in findings:
        plain(terminal, f"{finding.state:<8} {name:<14} {finding.said}", _STYLES[finding.state])
        if finding.remedy:
            plain(terminal, f"{'':23} -> {finding.remedy}")


def _sum(found: Found) -> str:
    states = [finding.state for findings in found.values() for finding in findings]
    problems, warnings = states.count("problem"), states.count("warning")
    if problems:
        return f"{problems} to mend before a run can work, {warnings} to look at"
    return f"leapcore can run here; {warnings} warning{'s' * (warnings > 1)}" if warnings else "all is well"
