"""``leapcore export``: the student of a run, from any of its checkpoints."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from leapcore.cli.output import console


class Format(str, Enum):
    """What a student can be written as."""

    TIMM = "timm"
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as runs/NAME.")],
    formats: Annotated[
        Optional[list[Format]],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
        typer.Option(
            "--format",
            metavar="[timm|onnx|torchscript]",
            case_sensitive=False,
            help="Also write this format, checked against torch. Repeatable; timm's is always written.",
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
    """Write a run's student for timm, ONNX or TorchScript.

    It comes with its model card, as timm and the Hugging Face hub expect it.
    """
    terminal = console()
    wanted = list(dict.fromkeys(one.value for one in formats or ()))
    with terminal.status("exporting"):
        from leapcore.export.student import HERE
        from leapcore.tools.export import export_run

        done = export_run(run, checkpoint=checkpoint, output=output, formats=wanted)
    typer.echo(f"student of {done.checkpoint} in {done.folder}, described in {done.folder / 'README.md'}")
    typer.echo(f"load it: {done.load}")
    if done.load_here:
        typer.echo(f"{HERE} {done.load_here}")
    for file in done.files:
        typer.echo(f"{file.name}: takes pixels in [0, 1]; {file.checked}")
        typer.echo(f"load it: {file.load(done.folder)}")
