"""How methods are distinguished: by colour, by line and by marker, so that print without colour will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

# Okabe and Ito's palette, which colour-blind readers tell apart; its yellow is too pale for thin lines.
INK, MUTED = "#000000", "#8a8a8a"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))
_MARKERS = ("s", "^", "D", "v", "P", "X", "*")


class Style(NamedTuple):
    """A method's look, in matplotlib's terms."""

    colour: str
    line: Any
    marker: str


def styles(methods: Sequence[str], baseline: str | None) -> dict[str, Style]:
    """A look for every method; the baseline is black, unbroken and round."""
    others = [method for method in methods if method != baseline]
    looks = {method: _style(index) for index, method in enumerate(others)}
    return {method: looks.get(method, Style(INK, "-", "o")) for method in methods}


def _style(index: int) -> Style:
    # The lengths share no factor, so that no two of the first 30 are alike in all three.
    line = _LINES[(index + 1) % len(_LINES)]
    return Style(_COLOURS[index % len(_COLOURS)], line, _MARKERS[index % len(_MARKERS)])
