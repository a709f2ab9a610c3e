"""Draw the pictures of docs/transfer.md from the benchmark's folder: panels of its report, put together.

python benchmarks/transfer/pictures.py bench/transfer docs/pictures
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from leapcore.bench.report import bench_document
from leapcore.bench.results import read_bench
from leapcore.report.document import Picture
from leapcore.report.figures.svg import with_own_ids

WANTED = {  # a picture's name: the report's chapter whose first picture it is, and panels per row
    "transfer-differences": ("Differences to the baseline", 2),
    "transfer-cost": ("Accuracy against cost", 3),
    "transfer-walks": ("Ways through the teachers", 3),
}
LEGEND_WIDTH, LEGEND_HEIGHT, SAMPLE_WIDTH = 100, 24, 40  # points


class Placed(NamedTuple):
    """An SVG element on its sheet; lengths in points."""

    element: str
    x: float
    y: float


def main() -> None:
    folder, pictures = map(Path, sys.argv[1:])
    chapters = {section.title: section.blocks for section in bench_document(read_bench(folder)).sections}
    for name, (chapter, columns) in WANTED.items():
        picture = next(block for block in chapters[chapter] if isinstance(block, Picture))
        (pictures / f"{name}.svg").write_text(sheet(picture, columns))


def sheet(picture: Picture, columns: int) -> str:
    """A picture's panels in rows below its legend, on white."""
    top = LEGEND_HEIGHT if picture.legend else 0
    placed = list(_grid(picture.panels, columns, top))
    width = max(p.x + _size(p.element)[0] for p in placed)
    height = max(p.y + _size(p.element)[1] for p in placed)
    inner = [_nested(p, f"p{index}") for index, p in enumerate(placed)] + list(_legend(picture.legend))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}pt" height="{height:g}pt">\n'
        + "\n".join(['<rect width="100%" height="100%" fill="white"/>', *inner, "</svg>\n"])
    )


def _grid(panels: Sequence[str], columns: int, y: float) -> Iterator[Placed]:
    for start in range(0, len(panels), columns):
        row, x = panels[start : start + columns], 0.0
        for panel in row:
            yield Placed(panel, x, y)
            x += _size(panel)[0]
        y += max(_size(panel)[1] for panel in row)


def _legend(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    for index, (name, drawing) in enumerate(entries):
        x = LEGEND_WIDTH * (index + 0.5)
        yield _nested(Placed(drawing, x, (LEGEND_HEIGHT - _size(drawing)[1]) / 2), f"l{index}")
        style = 'font-family="DejaVu Sans, Verdana, sans-serif" font-size="9" dominant-baseline="middle"'
        yield f'<text x="{x + SAMPLE_WIDTH:g}" y="{LEGEND_HEIGHT / 2:g}" {style}>{escape(name)}</text>'


def _nested(placed: Placed, prefix: str) -> str:
    element = re.sub(r'="([\d.]+)pt"', r'="\1"', with_own_ids(placed.element, prefix), count=2)  # its size
    return element.replace("<svg", f'<svg x="{placed.x:g}" y="{placed.y:g}"', 1)


def _size(element: str) -> tuple[float, float]:
    """An element's width and height, which are those of its view box."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', element)
    assert found, "matplotlib writes a view box"
    return float(found[1]), float(found[2])


if __name__ == "__main__":
    main()
