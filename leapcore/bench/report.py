"""The report of a bench."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from leapcore.bench.comparison import heat_maps, main_table, trade_offs, verdicts
from leapcore.bench.results import BenchResults, CellResult, ModelPair, read_bench, write_rows
from leapcore.report.common_blocks import (
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
from leapcore.report.document import Block, Code, Document, Section, Table, Text
from leapcore.report.figures.curves import over_steps
from leapcore.report.figures.style import Style, styles
from leapcore.report.figures.svg import sample
from leapcore.report.numbers import counted
from leapcore.report.output_files import WrittenReport, write_report
from leapcore.report.settings import differences
from leapcore.runs.json_files import read_text
from leapcore.runs.reader import Run
from leapcore.runs.state import State

Legend = list[tuple[str, str]]

_THIN = "A thin line is one seed."


def write_bench_report(folder: Path) -> WrittenReport:
    """Write ``report.html``, ``report.md`` and the tables of rows of a bench, finished or not.

    Raises:
        ReportError: Its matrix cannot be read, or the folder cannot be written.
    """
    document = bench_document(read_bench(folder))
    write_rows(folder)
    return write_report(document, folder)


def bench_document(results: BenchResults) -> Document:
    """What a bench shows, as far as it is."""
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


def _summary(results: BenchResults) -> list[str]:
    counts = Counter(cell.run.state for cell in results.cells)
    rest = ", ".join(f"{count} {state}" for state, count in counts.items() if state is not State.FINISHED)
    cells = (
        f"{len(results.pairs)} teacher–student pairs × {counted(len(results.methods), 'method')}: "
        f"{counts[State.FINISHED]} of {counted(len(results.cells), 'cell')} finished"
    )
    return [cells + (f" ({rest})." if rest else "."), *verdicts(results)]


def _walks(results: BenchResults, looks: dict[str, Style], legend: Legend) -> list[Block]:
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


def _curves(results: BenchResults, looks: dict[str, Style], legend: Legend) -> list[Block]:
    panels = [
        over_steps(
            str(pair), learning_plots((cell.run, looks[cell.plan.method]) for cell in _cells(results, pair))
        )
        for pair in results.pairs
    ]
    return [*small_multiples(f"{CURVES} {_THIN} {AVERAGED}", panels, legend)]


def _cells(results: BenchResults, pair: ModelPair) -> list[CellResult]:
    return [cell for cell in results.cells if cell.pair == pair]


def _maps(results: BenchResults) -> list[Block]:
    """A picture per pair: the first is open, the others unfold."""
    drawn = [(pair, panels) for pair in results.pairs if (panels := _maps_of(results, pair))]
    return [
        picture
        for index, (pair, panels) in enumerate(drawn)
        for picture in cka_picture(panels, str(pair), folded=index > 0)
    ]


def _maps_of(results: BenchResults, pair: ModelPair) -> list[str]:
    """Those of each method's first cell that has any."""
    panels = []
    for method in results.methods:
        with_maps = [cell for cell in results.of(pair, method) if cell.run.maps]
        for cell in with_maps[:1]:
            panels += cka_panels(cell.run, f"{method}, seed {cell.plan.seed}, ")
    return panels


def _settings(results: BenchResults) -> list[Block]:
    matrix = read_text(results.folder / "bench.yaml")
    code = [Code(matrix, "bench.yaml: the matrix as it was written", folded=True)] if matrix else []
    return [*code, *differences(_run_per_method(results), "Settings in which the methods differ")]


def _run_per_method(results: BenchResults) -> dict[str, Run]:
    """A run of each method, all of the pair and seed that most methods have begun."""
    groups: dict[Any, dict[str, Run]] = {}
    for cell in results.cells:
        if cell.run.spec:
            groups.setdefault((cell.pair, cell.plan.seed), {})[cell.plan.method] = cell.run
    most = max(groups.values(), key=len, default={})
    return {method: most[method] for method in results.methods if method in most}


def _unfinished(results: BenchResults) -> list[Block]:
    begun = [cell for cell in results.cells if cell.run.state not in (State.FINISHED, State.WAITING)]
    rows = [
        [cell.plan.name, cell.run.state, f"{cell.run.steps:,}", next(iter(cell.run.error.splitlines()), "")]
        for cell in begun
    ]
    blocks: list[Block] = [Table(["cell", "status", "steps", "error"], rows, stubs=2)] if begun else []
    waiting = [cell.plan.name for cell in results.cells if cell.run.state is State.WAITING]
    if waiting:
        blocks.append(Text(f"Waiting: {', '.join(waiting)}."))
    errors = {cell.plan.name: cell.run.error for cell in begun if len(cell.run.error.splitlines()) > 1}
    return blocks + [Code(error, f"{name}: the whole error", folded=True) for name, error in errors.items()]
