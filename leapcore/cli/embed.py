"""``leapcore embed``: a model's features of images, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from leapcore.cli.output import console

if TYPE_CHECKING:
    from leapcore.tools.embed import Embedded

_NAMED = 3  # skipped images


def _splits(incomplete: str) -> list[str]:
    return [split for split in ("train", "val") if split.startswith(incomplete)]


def embed(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run's or a student's folder, or a timm name.")
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder of images, at any depth, or a data source such as torch/cifar10."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A .parquet, .npz or .npy file.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of a spec's data section, e.g. workers=8 or image_size=448.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="[train|val]", help="Which images of a data source.", autocompletion=_splits),
    ] = "val",
    layer: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="Which layer's features, from 1; the last one's if not given."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images at a time.")] = 64,
    backbone: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FAMILY", help="The model's backbone family; taken from its name if not given."),
    ] = None,
) -> None:
    """Write a model's features of images to a file.

    There is a vector for each image, with its path and label.
    """
    from rich.progress import MofNCompleteColumn, Progress

    from leapcore.tools.feature_file import check_feature_file

    check_feature_file(output, overwrite=overwrite)  # before what takes long
    terminal = console()
    with terminal.status("loading"):
        from leapcore.tools.embed import embed as embed_images
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
        task = progress.add_task("images", total=None)
        done = embed_images(
            model,
            data,
            output,
            family=backbone,
            settings=set_ or (),
            split=split,
            layer=layer,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=lambda count, total: progress.update(task, completed=count, total=total),
        )
    _print_result(done, output)


def _print_result(done: Embedded, output: Path) -> None:
    for name, reason in list(done.skipped.items())[:_NAMED]:
        typer.echo(f"skipped {name}: {reason}", err=True)
    if len(done.skipped) > _NAMED:
        typer.echo(f"… and {len(done.skipped) - _NAMED} more", err=True)
    left_out = f", {len(done.skipped):,} skipped" if done.skipped else ""
    typer.echo(f"{output}: {done.images:,} vectors of {done.width} numbers{left_out}")
