"""What the commands share: reading specs, printing, ending with an error."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from leapcore.cli import completion
from leapcore.distributed.place import place
from leapcore.errors import LeapcoreError

if TYPE_CHECKING:
    from rich.console import Console

    from leapcore.spec import Spec

Source = Annotated[
    str,
    typer.Argument(
        metavar="SPEC|RECIPE",
        help="A YAML file, or a recipe's name.",
        autocompletion=completion.sources,
    ),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, e.g. train.seed=1.",
        autocompletion=completion.assignments,
    ),
]
Options = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--option", metavar="KEY=VALUE", help="An argument of the model, e.g. depth=6."),
]


def parsed_options(options: list[str] | None) -> dict[str, Any]:
    """``["depth=6"]`` as ``{"depth": 6}``: values are YAML."""
    from leapcore.spec.text import assignment

    return dict(assignment("--option", option, "depth=6") for option in options or ())


def load(source: str, overrides: list[str] | None) -> Spec:
    """Read a spec or recipe."""
    from leapcore.spec.file import load_spec

    return load_spec(source, overrides or ())


def console() -> Console:
    """Where results are printed: as wide as the terminal, 160 columns into a file.

    Of several processes only the first one prints.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width, quiet=place().rank > 0)


def plain(terminal: Console, text: str, style: str = "") -> None:
    """A line as it is: one line, however long, in which nothing is markup."""
    terminal.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(error: LeapcoreError) -> NoReturn:
    """End with an error's cause and remedy; what all processes of a run raise is told by the first one."""
    here = place()
    if not (error.shared and here.rank):
        _tell(error, here.rank)
    if error.shared and here.size > 1:
        _leave_together()
    sys.exit(error.exit_code)


def _leave_together() -> None:
    """Wait until the first has written and told all: launchers end all processes once one has failed."""
    from leapcore.distributed.ranks import join

    with suppress(RuntimeError):  # one that is gone already
        join().all_gather_numbers([0])


def _tell(error: LeapcoreError, rank: int) -> None:
    from rich.console import Console

    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    whose = f"Error on rank {rank}:" if rank else "Error:"
    stderr.print(whose, style="bold red", end=" ")
    stderr.print(error.cause, markup=False)
    if error.remedy:
        stderr.print(error.remedy, markup=False)
