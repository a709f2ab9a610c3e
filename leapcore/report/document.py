"""What a report consists of, before it becomes HTML or Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first ``stubs`` columns name a row, the others are figures.

    Attributes:
        columns: Headings.
        rows: Cells, each row as long as the columns.
        caption: How its numbers are made.
        stubs: How many columns are text.
        starts: Indices of rows that begin a group.
        shades: How dark each figure of each row is, from 0 to 1; empty where colours say nothing.
    """

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    stubs: int = 1
    starts: frozenset[int] = frozenset()
    shades: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Picture:
    """Drawings that share a caption: small multiples.

    Attributes:
        caption: What is seen, in which units.
        panels: SVG elements.
        legend: Names, each with an SVG element; empty if none is needed.
        folded: Whether they are shown on request only, under ``title``.
        title: Names the drawings.
        wide: How wide a panel wants to be, in rem.
    """

    caption: str
    panels: list[str]
    legend: Sequence[tuple[str, str]] = ()
    folded: bool = False
    title: str = ""
    wide: float = 20


@dataclass(frozen=True)
class Code:
    """A text as it is, such as YAML or an error; long ones are folded under their title."""

    text: str
    title: str = ""
    folded: bool = False
    language: str = ""


Block = Text | Table | Picture | Code


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading, with its anchor."""

    title: str
    blocks: list[Block]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: The run's or the bench's name.
        kind: What it is a report of.
        summary: A paragraph, sentence by sentence.
        sections: Those that have something to show.
    """

    title: str
    kind: str
    summary: list[str]
    sections: list[Section] = field(default_factory=list)
