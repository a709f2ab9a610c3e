"""A document in a terminal: its words and tables, with colours where a table has shades."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text as Words

from leapcore.report.document import Document, Table, Text

_LIGHT, _DARK = (235, 243, 250), (0, 84, 140)  # of shades 0 and 1


def show(console: Console, document: Document) -> None:
    """Print a document; drawings are in its page."""
    console.print(f"{document.title}: {' '.join(document.summary)}", markup=False, highlight=False)
    for section in document.sections:
        console.print(f"\n{section.title}", style="bold")
        for block in section.blocks:
            if isinstance(block, Table):
                console.print(grid(block))
                console.print(block.caption, style="dim", markup=False, highlight=False)
            elif isinstance(block, Text):
                console.print(f"- {block.text}", markup=False, highlight=False)


def grid(table: Table) -> Grid:
    """A table as rich prints it, figures to the right."""
    printed = Grid()
    for index, heading in enumerate(table.columns):
        printed.add_column(Words(heading), justify="left" if index < table.stubs else "right")
    for index, row in enumerate(table.rows):
        if index in table.starts:
            printed.add_section()
        shades = [0.0] * table.stubs + list(table.shades[index]) if table.shades else [0.0] * len(row)
        printed.add_row(*_cells(row, shades))
    return printed


def _cells(row: Sequence[str], shades: Sequence[float]) -> list[Words]:
    return [Words(cell, style=_style(shade)) for cell, shade in zip(row, shades, strict=True)]


def _style(shade: float) -> str:
    if shade <= 0:
        return ""
    mixed = [round(light + shade * (dark - light)) for light, dark in zip(_LIGHT, _DARK, strict=True)]
    return f"{'rgb(255,255,255)' if shade > 0.75 else 'black'} on rgb({','.join(map(str, mixed))})"
