"""``leapcore doctor``: whether this machine can run leapcore, and what to mend."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leapcore._version import __version__
from leapcore.cli.noise import library_noise
from leapcore.cli.output import console, print_line
from leapcore.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console

    from leapcore.doctor.runner import Finding

    Findings = dict[str, list[Finding]]  # by check

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings for programs.")] = False,
) -> None:
    """Check whether this machine can run leapcore.

    Checked are versions, GPUs, DeepSpeed, plugins, disks and threads; exit code 1 if a run cannot work.
    """
    from leapcore.doctor.runner import worst

    _require_folder()
    with library_noise(shown=False):
        findings = _findings(None if as_json else console())
    state = worst(finding for of_check in findings.values() for finding in of_check)
    if as_json:
        rows = [_row(name, finding) for name, of_check in findings.items() for finding in of_check]
        typer.echo(json.dumps({"state": state, "leapcore": __version__, "findings": rows}, indent=2))
    raise typer.Exit(1 if state == "problem" else 0)


def _require_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:  # no process can be started from there
        raise OutputError("the current folder is not there any more", "Change to another one.") from error


def _findings(terminal: Console | None) -> Findings:
    """All findings, printed as they come if there is a terminal."""
    from leapcore.doctor.checks import CHECKS
    from leapcore.doctor.runner import run_checks

    if terminal is None:
        return dict(run_checks(CHECKS))
    python = f"Python {platform.python_version()} ({sys.executable})"
    print_line(terminal, f"leapcore {__version__}, {python}, {platform.platform()}")
    findings: Findings = {}
    with terminal.status("checking"):
        for name, of_check in run_checks(CHECKS):
            findings[name] = of_check
            _print_findings(terminal, name, of_check)
    print_line(terminal, _conclusion(findings))
    return findings


def _print_findings(terminal: Console, name: str, findings: list[Finding]) -> None:
    for finding in findings:
        print_line(terminal, f"{finding.state:<8} {name:<14} {finding.message}", _STYLES[finding.state])
        if finding.remedy:
            print_line(terminal, f"{'':23} -> {finding.remedy}")


def _row(check: str, finding: Finding) -> dict[str, str]:
    return {"check": check, "state": finding.state, "said": finding.message, "remedy": finding.remedy}


def _conclusion(findings: Findings) -> str:
    states = [finding.state for of_check in findings.values() for finding in of_check]
    problems, warnings = states.count("problem"), states.count("warning")
    if problems:
        return f"{problems} to mend before a run can work, {warnings} to look at"
    return f"leapcore can run here; {warnings} warning{'s' * (warnings > 1)}" if warnings else "all is well"
