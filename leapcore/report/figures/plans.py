"""What a run will cost: steps by target layer, and walks through the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leapcore.report.figures.style import Style
from leapcore.report.figures.svg import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (4.6, 2.5)
_COLOURS = ("#0072B2", "#D55E00", "#009E73")


def step_costs(title: str, parts: Mapping[str, Sequence[float]], unit: str) -> str:
    """FLOPs of an image in a step, stacked by part, over the target layer (from 1)."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.18, 0.84, 0.7))
        layers = range(1, 1 + len(next(iter(parts.values()))))
        below = [0.0] * len(layers)
        for (name, costs), colour in zip(parts.items(), _COLOURS, strict=False):
            axes.bar(layers, costs, width=0.85, bottom=below, color=colour, label=name)
            below = [low + cost for low, cost in zip(below, costs, strict=True)]
        axes.set(xlabel="target layer", ylabel=f"{unit} per image")
        axes.set_title(title)
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8, loc="upper left")

    return svg(draw, _SIZE, f"{title}: {unit} of a step for each of the teacher's layers")


def drawn_walks(title: str, walks: Mapping[str, tuple[Style, Sequence[tuple[float, int]]]]) -> str:
    """Target layers (from 1) over the share of a run in %, each walk as the ends of its stays."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.18, 0.84, 0.7))
        for style, stays in walks.values():
            edges = [0.0, *(100 * end for end, _ in stays)]
            axes.stairs(
                [layer for _, layer in stays],
                edges,
                baseline=None,
                color=style.colour,
                linestyle=style.line,
                linewidth=1.3,
            )
        axes.set(xlabel="share of the run, %", ylabel="target layer")
        axes.set_title(title)
        axes.locator_params(axis="y", integer=True)
        axes.margins(x=0.02)
        axes.grid(axis="y")

    return svg(draw, _SIZE, f"{title}: target layer over the run, for {', '.join(walks)}")
