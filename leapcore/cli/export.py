"""``leapcore export``: the student of a run, from any of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from leapcore.cli.output import console
from leapcore.export.formats import FORMATS, requested_formats


def _formats(incomplete: str) -> list[str]:
    return [name for name in FORMATS if name.startswith(incomplete.lower())]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/NAME.")],
    formats: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
        typer.Option(
            "--format",
            metavar=f"[{'|'.join(FORMATS)}]",
            help="Also write this format, checked against torch. Repeatable; timm's is always written.",
            autocompletion=_formats,
        ),
    ] = None,
    checkpoint: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Which of its checkpoints; the latest if not given."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", metavar="DIR", help="A new folder; RUN/exports/CHECKPOINT if not given."
        ),
    ] = None,
) -> None:
    """Write a run's student for timm, ONNX or torch.export.

    It comes with its model card, as timm and the Hugging Face hub expect it.
    """
    names = requested_formats(formats or ())  # before what takes long
    with console().status("exporting"):
        from leapcore.export.student import HERE
        from leapcore.tools.export import export_run

        done = export_run(run, checkpoint=checkpoint, output=output, formats=names)
    typer.echo(f"student of {done.checkpoint} in {done.folder}, described in {done.folder / 'README.md'}")
    typer.echo(f"load it: {done.load}")
    if done.load_here:
        typer.echo(f"{HERE} {done.load_here}")
    for file in done.files:
        typer.echo(
            f"{file.name}: takes pixels in [0, 1]; "
            f"deviates from torch by at most {file.deviation:.1e} of the largest feature"
        )
        typer.echo(f"load it: {file.load_line(done.folder)}")
