"""Heat maps: teacher × student for differences, student layer × teacher layer for CKA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from leapcore.plugins.events import CkaMap
from leapcore.report.figures.svg import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CKA: Any = {"cmap": "cividis", "vmin": 0, "vmax": 1}
_CHARACTER = 0.075  # inches of a label


class Tile(NamedTuple):
    """A cell of a heat map: its value decides the colour, NaN is left white."""

    value: float
    text: str


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], tiles: Sequence[Sequence[Tile]], limit: float
) -> str:
    """Teachers × students on a diverging palette from ``-limit`` to ``limit``."""
    left = 0.15 + _CHARACTER * max(len(row) for row in rows)
    slanted = max(len(column) for column in columns) > 9
    bottom = 0.15 + (_CHARACTER * 0.6 * max(len(column) for column in columns) if slanted else 0.15)
    width, height = left + 0.86 * len(columns) + 0.1, bottom + 0.5 * len(rows) + 0.32

    def draw(figure: Figure) -> None:
        axes = figure.add_axes(
            (left / width, bottom / height, 1 - (left + 0.1) / width, 1 - (bottom + 0.32) / height)
        )
        values = [[tile.value for tile in row] for row in tiles]
        axes.pcolormesh(values, cmap="RdBu", vmin=-limit, vmax=limit, edgecolors="white", linewidth=1.5)
        _write(axes, tiles, limit)
        axes.set_yticks([index + 0.5 for index in range(len(rows))], rows)
        turn: dict[str, Any] = {"rotation": 35, "ha": "right"} if slanted else {}
        axes.set_xticks([index + 0.5 for index in range(len(columns))], columns, **turn)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title)

    return svg(draw, (width, height), f"{title}: a number for each teacher (rows) and student (columns)")


def _write(axes: Axes, tiles: Sequence[Sequence[Tile]], limit: float) -> None:
    for row, cells in enumerate(tiles):
        for column, tile in enumerate(cells):
            dark = not math.isnan(tile.value) and abs(tile.value) > 0.62 * limit
            colour = "white" if dark else "black"
            axes.text(
                column + 0.5, row + 0.5, tile.text, ha="center", va="center", color=colour, fontsize=8.5
            )


def cka_map(title: str, cka: CkaMap) -> str:
    """CKA of every student layer (from below) with every teacher layer, coloured as :func:`cka_scale`."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.16, 0.17, 0.8, 0.69))
        shape = (0.5, len(cka.teacher_layers) + 0.5, 0.5, len(cka.student_layers) + 0.5)
        axes.imshow(cka.cka, origin="lower", aspect="auto", extent=shape, interpolation="none", **_CKA)
        axes.set(xlabel="teacher layer", ylabel="student layer")
        axes.set_title(title)
        axes.locator_params(nbins=6, integer=True)

    label = " ".join(title.split("\n"))
    layers = f"{len(cka.student_layers)} × {len(cka.teacher_layers)} layers"
    return svg(draw, (2.9, 2.7), f"{label}: CKA of {layers}")


def cka_scale() -> str:
    """The colours of CKA from 0 to 1."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow([[step / 50 for step in range(51)]], aspect="auto", **_CKA)

    return svg(draw, (1.2, 0.15), "dark blue to yellow")
