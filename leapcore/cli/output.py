"""Printing results, and ending with an error."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from leapcore.distributed.place import place
from leapcore.errors import LeapcoreError

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The console for results: as wide as the terminal, 160 columns into a file.

    Of several processes only the first one prints.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width, quiet=place().rank > 0)


def print_line(terminal: Console, text: str, style: str = "") -> None:
    """Print a line as it is: never wrapped, and with no markup in it."""
    terminal.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(error: LeapcoreError) -> NoReturn:
    """End with an error's cause and remedy; what all processes of a run raise is printed by the first one."""
    here = place()
    if not (error.shared and here.rank):
        _print_error(error, here.rank)
    if error.shared and here.size > 1:
        _leave_together()
    sys.exit(error.exit_code)


def _leave_together() -> None:
    """Wait until the first has written and printed all: launchers end all processes once one has failed."""
    from leapcore.distributed.ranks import join

    with suppress(RuntimeError):  # one that is gone already
        join().all_gather_numbers([0])


def _print_error(error: LeapcoreError, rank: int) -> None:
    from rich.console import Console

    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    stderr.print(f"Error on rank {rank}:" if rank else "Error:", style="bold red", end=" ")
    stderr.print(error.cause, markup=False)
    if error.remedy:
        stderr.print(error.remedy, markup=False)
