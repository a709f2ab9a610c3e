"""From a matplotlib figure to an SVG element."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from leapcore.report.figures.style import Style

_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "leapcore",  # the same drawing for the same figures
    "text.parse_math": False,  # names may hold a dollar sign
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.formatter.useoffset": False,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
}


def svg(draw: Callable[[Figure], None], size: tuple[float, float], label: str) -> str:
    """Draw a figure.

    Args:
        draw: Fills the empty figure.
        size: Width and height in inches.
        label: What it shows, for those who cannot see it.

    Returns:
        An ``<svg>`` element; its ids are unique within it alone.
    """
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size)
        draw(figure)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _element(file.getvalue(), label)


def _element(drawn: str, label: str) -> str:
    """Without the prolog and metadata, which an inlined element must not have."""
    element = re.sub(r"<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    named = f'<svg role="img" aria-label="{escape(label)}"'
    return element.replace("<svg", named, 1).strip()


def with_own_ids(element: str, prefix: str) -> str:
    """An SVG element whose ids no other one in the page has."""
    element = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\g<1>{prefix}-", element)
    return re.sub(
        r' id="[^"]*-(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick)_\d+"', "", element
    )


def sample(style: Style, label: str) -> str:
    """A piece of a method's line with its marker, for a legend."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(0, 2))
        axes.plot([0, 1, 2], [1, 1, 1], color=style.colour, linestyle=style.line, linewidth=1.6)
        axes.plot([1], [1], color=style.colour, marker=style.marker, markersize=5.5)

    return svg(draw, (0.45, 0.15), label)
