"""The report of a bench."""

from __future__ import annotations

from collections import Counter

from leapcore.report.bench_comparison import heat_maps, main_table, trade_offs, verdicts
from leapcore.report.bench_results import Cell, Pair, Results
from leapcore.report.document import Block, Code, Document, Section, Table, Text
from leapcore.report.figures.curves import over_steps
from leapcore.report.figures.style import Style, styles
from leapcore.report.figures.svg import sample
from leapcore.report.numbers import counted
from leapcore.report.settings import method_differences
from leapcore.report.shared import (
    AVERAGED,
    CURVES,
    WALK,
    cka_panels,
    cka_picture,
    learning_plots,
    small_multiples,
    versions,
    walk_plots,
)
from leapcore.runs.files import text

_THIN = "A thin line is one seed."


def bench_document(results: Results) -> Document:
    """What a bench found, as far as it is."""
    looks = styles(results.methods, results.baseline)
    legend = [(method, sample(look, method)) for method, look in looks.items()]
    sections = [
        Section("Results", [main_table(results)] if any(cell.finished for cell in results.cells) else []),
        Section("Differences to the baseline", [*heat_maps(results)]),
        Section("Accuracy against cost", [*trade_offs(results, looks, legend)]),
        Section("Ways through the teachers", _walks(results, looks, legend)),
        Section("CKA of all layers", _maps(results)),
        Section("Learning curves", _curves(results, looks, legend)),
        Section("Settings", _settings(results)),
        Section("Versions and machines", [*versions(cell.run for cell in results.cells)]),
        Section("Cells that are not finished", _unfinished(results)),
    ]
    shown = [section for section in sections if section.blocks]
    return Document(results.matrix.name, "bench", _summary(results), shown)


def _summary(results: Results) -> list[str]:
    counts = Counter(cell.status for cell in results.cells)
    rest = ", ".join(f"{count} {status}" for status, count in counts.items() if status != "finished")
    said = [
        f"{len(results.pairs)} teacher–student pairs × {counted(len(results.methods), 'method')}: "
        f"{counts['finished']} of {counted(len(results.cells), 'cell')} finished"
        + (f" ({rest})." if rest else ".")
    ]
    return said + verdicts(results)


Legend = list[tuple[str, str]]


def _walks(results: Results, looks: dict[str, Style], legend: Legend) -> list[Block]:
    panels = [
        over_steps(
            str(pair),
            walk_plots(
                [
                    (cell.run, cell.run.teachers[0], results.depth(cell), looks[cell.plan.method])
                    for cell in _cells(results, pair)
                ]
            ),
        )
        for pair in results.pairs
    ]
    return [*small_multiples(f"{WALK} {_THIN} {AVERAGED}", panels, legend)]


def _curves(results: Results, looks: dict[str, Style], legend: Legend) -> list[Block]:
    panels = [
        over_steps(
            str(pair), learning_plots((cell.run, looks[cell.plan.method]) for cell in _cells(results, pair))
        )
        for pair in results.pairs
    ]
    return [*small_multiples(f"{CURVES} {_THIN} {AVERAGED}", panels, legend)]


def _cells(results: Results, pair: Pair) -> list[Cell]:
    return [cell for cell in results.cells if cell.pair == pair]


def _maps(results: Results) -> list[Block]:
    """A picture per pair: the first is open, the others unfold."""
    found = [(pair, panels) for pair in results.pairs if (panels := _maps_of(results, pair))]
    return [
        picture
        for index, (pair, panels) in enumerate(found)
        for picture in cka_picture(panels, str(pair), folded=index > 0)
    ]


def _maps_of(results: Results, pair: Pair) -> list[str]:
    panels = []
    for method in results.methods:
        having = [cell for cell in results.of(pair, method) if cell.run.maps]
        for cell in having[:1]:
            panels += cka_panels(cell.run, f"{method}, seed {cell.plan.seed}, ")
    return panels


def _settings(results: Results) -> list[Block]:
    written = text(results.folder / "bench.yaml")
    matrix: list[Block] = (
        [Code(written, "bench.yaml: the matrix as it was written", folded=True)] if written else []
    )
    return [*matrix, *method_differences(results)]


def _unfinished(results: Results) -> list[Block]:
    cells = [cell for cell in results.cells if not cell.finished]
    if not cells:
        return []
    begun = [cell for cell in cells if cell.status != "not begun"]
    rows = [[c.plan.name, c.status, f"{c.run.steps:,}", next(iter(c.error.splitlines()), "")] for c in begun]
    blocks: list[Block] = [Table(["cell", "status", "steps", "error"], rows, stubs=2)] if begun else []
    waiting = [cell.plan.name for cell in cells if cell.status == "not begun"]
    if waiting:
        blocks.append(Text(f"Not begun: {', '.join(waiting)}."))
    failed = [cell for cell in begun if len(cell.error.splitlines()) > 1]
    return blocks + [Code(cell.error, f"{cell.plan.name}: the whole error", folded=True) for cell in failed]
