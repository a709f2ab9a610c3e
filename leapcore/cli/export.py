"""``leapcore export``: the student of a run, from any of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from leapcore.cli.common import console


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/NAME.")],
    checkpoint: Annotated[
        Optional[str],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
        typer.Option(metavar="NAME", help="Which of its checkpoints; the latest if not given."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="A new folder; RUN/exports/CHECKPOINT if not given."),
    ] = None,
    onnx: Annotated[bool, typer.Option(help="Write student.onnx too, checked against torch.")] = False,
) -> None:
    """Write a run's student in timm's local-dir format, and as ONNX."""
    terminal = console()
    with terminal.status("exporting"):
        from leapcore.engine.exporting import export_run
        from leapcore.export import load_line

        done = export_run(run, checkpoint=checkpoint, output=output, onnx=onnx)
    typer.echo(f"student of {done.checkpoint} in {done.folder}")
    typer.echo(f"load it: {load_line(done.folder)}")
    if done.onnx:
        typer.echo(f"{done.onnx}: deviates from torch by at most {done.deviation:.1e} of the largest feature")
