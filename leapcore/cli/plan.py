"""``leapcore plan``: what a run will cost, before its first step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from leapcore.cli.arguments import Overrides, Source
from leapcore.cli.output import console, print_line
from leapcore.errors import OutputError

if TYPE_CHECKING:
    from leapcore.plan.costs import Costs
    from leapcore.plan.probe import Probe


def plan(
    source: Source,
    set_: Overrides = None,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Take ten real steps at each of three layers, to time them."),
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", metavar="FILE.html", help="Write it as a page with drawings, too."),
    ] = None,
) -> None:
    """Show what a run will cost before its first step.

    That is: FLOPs, memory, disk, time with --probe, and warnings. No weights are
    loaded or downloaded, and nothing is written but the page.
    """
    if output is not None and not output.parent.is_dir():  # better now than after a probe
        raise OutputError(f"folder '{output.parent}' does not exist", "Name a file in a folder that does.")
    for library in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # before they are imported
        os.environ.setdefault(library, "1")
    from leapcore.spec.file import load_spec

    spec, terminal = load_spec(source, set_ or [], files=False), console()
    with terminal.status("counting"):
        from leapcore.plan.costs import Costs
        from leapcore.plan.document import document
        from leapcore.plan.parts import planned
        from leapcore.report.terminal import show

        costs = Costs(planned(spec))
    measured = _probed(costs) if probe else None
    with terminal.status("counting"):
        planned_run = document(costs, measured, drawings=output is not None)
    show(terminal, planned_run)
    if output is not None:
        from leapcore.report.output_files import write_page

        print_line(terminal, f"\npage: {write_page(planned_run, output)}")


def _probed(costs: Costs) -> Probe:
    from leapcore.plan.probe import probe

    with console().status("probing") as status:
        return probe(costs, lambda text: status.update(f"probing: {text}"))
