"""What a bench compares: methods with the baseline, pair by pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from leapcore.bench.results import BenchResults, ModelPair
from leapcore.report.document import Block, Picture, Table
from leapcore.report.figures.curves import Point, against_flops
from leapcore.report.figures.maps import Tile, heat_map
from leapcore.report.figures.style import Style
from leapcore.report.measures import ACCURACIES, Measure, saved_flops, spent_flops, training_seconds
from leapcore.report.numbers import NOTHING, counted, difference, level, percent, signed
from leapcore.report.statistics import Estimate, estimate, paired, paired_saving
from leapcore.runs.reader import Run

_INTERVAL = "± is half the width of the 95 % interval of Student's t over the seeds; one seed has none."
_PAIRED = (
    "Differences are paired: method minus baseline, seed by seed, over the seeds that both finished. ≈ marks "
    "differences whose interval holds 0. No interval is widened for the number of comparisons."
)


_DIFFERENCE = (
    "in points, mean over the paired seeds. Blue is better, red is worse; ≈ stands where the 95 % interval "
    "holds 0 (no clear difference), ? where there is one seed and so no interval."
)
_TIME = "Time is that of training, paired in the same way."
_SAVED = (
    "FLOPs of training saved against the teacher's last layer throughout, in %, mean over the seeds. Blue is "
    "saved, red is spent in addition."
)
_TRADE_OFF = (
    "in % against the FLOPs of training (2 per multiply-add). Large: mean of a method over its seeds, with "
    "the 95 % interval of Student's t, which may reach beyond the frame for two seeds; small: each seed. The "
    "dotted line joins the Pareto front of the means, which is ringed: no other method is both cheaper and "
    "better than one on it."
)
_VERDICTS = {"higher": "better", "lower": "worse", "none": "no clear difference", "": "not judged (one seed)"}


def against_baseline(results: BenchResults, pair: ModelPair, method: str, measure: Measure) -> Estimate:
    """The paired difference of a method to the baseline."""
    if results.baseline is None:
        return estimate([])
    return paired(
        results.values(pair, method, measure.read), results.values(pair, results.baseline, measure.read)
    )


def main_table(results: BenchResults) -> Table:
    """Every pair and method with its accuracies, differences and savings."""
    rows: list[list[str]] = []
    starts = []
    for pair in results.pairs:
        of_pair = [_row(results, pair, method) for method in results.methods if results.of(pair, method)]
        for row in of_pair[1:]:
            row[0] = ""  # as above
        starts.append(len(rows))
        rows += of_pair
    columns = ["teacher → student", "method", "seeds", "kNN, %", "probe, %", "FLOPs saved, %"]
    caption = f"Means over the seeds that finished. {_INTERVAL} {_SAVED.partition(',')[0]}."
    if results.baseline:
        columns[4:5] = ["Δ kNN", "probe, %", "Δ probe"]
        columns.append("time saved, %")
        caption += f" The baseline is {results.baseline}; Δ in points. {_PAIRED} {_TIME}"
    return Table(columns, rows, caption, stubs=2, starts=frozenset(starts))


def _row(results: BenchResults, pair: ModelPair, method: str) -> list[str]:
    cells = results.of(pair, method)
    row = [str(pair), method, f"{sum(cell.finished for cell in cells)} of {len(cells)}"]
    for measure in ACCURACIES:
        row.append(level(_mean(results, pair, method, measure.read)))
        if results.baseline:
            compared = against_baseline(results, pair, method, measure)
            row.append(NOTHING if method == results.baseline else difference(compared))
    row.append(percent(_mean(results, pair, method, saved_flops).mean, 1))
    if results.baseline:
        row.append(
            NOTHING if method == results.baseline else percent(_time_saved(results, pair, method).mean, 1)
        )
    return row


def _time_saved(results: BenchResults, pair: ModelPair, method: str) -> Estimate:
    own = results.values(pair, method, training_seconds)
    return paired_saving(own, results.values(pair, results.baseline or "", training_seconds))


def verdicts(results: BenchResults) -> list[str]:
    """In how many pairs each method is better or worse than the baseline; a sentence for those alike."""
    if results.baseline is None:
        return ["There is no baseline to compare methods with."]
    alike: dict[str, list[str]] = {}
    for method in results.others:
        alike.setdefault(_verdict(results, method), []).append(method)
    sentences = [f"{', '.join(methods)}: {verdict}." for verdict, methods in alike.items() if verdict]
    if not sentences:
        return [f"No method can be compared with the baseline {results.baseline} yet."]
    return [
        f"Compared with the baseline {results.baseline}, by the 95 % interval of the paired difference:",
        *sentences,
    ]


def _verdict(results: BenchResults, method: str) -> str:
    """Of one method; empty if it cannot be compared yet."""
    pairs = [pair for pair in results.pairs if results.of(pair, method)]
    parts = []
    for measure in ACCURACIES:
        gains = [against_baseline(results, pair, method, measure) for pair in pairs]
        counts = Counter(gain.verdict for gain in gains if gain.n)
        if counts:
            parts.append(f"{measure.name} {_counts(counts, alone=len(pairs) == 1)}")
    return "; ".join(parts)


def _counts(counts: Counter[str], alone: bool) -> str:
    """``better in 4, no clear difference in 2 of 6 pairs``; ``better``, if the matrix has one pair alone."""
    if alone:
        return _VERDICTS[next(iter(counts))]
    parts = [f"{word} in {counts[verdict]}" for verdict, word in _VERDICTS.items() if counts[verdict]]
    return f"{', '.join(parts)} of {counted(counts.total(), 'pair')}"


def heat_maps(results: BenchResults) -> list[Picture]:
    """Teacher × student, a panel per method: differences in accuracy, and FLOPs saved."""
    if len(results.pairs) < 2:
        return []
    pictures = [picture for measure in ACCURACIES for picture in _differences(results, measure)]
    savings = {
        method: {pair: _mean(results, pair, method, saved_flops) for pair in results.pairs}
        for method in results.others
    }
    return pictures + _heat_picture(results, savings, _SAVED, marked=False)


def _differences(results: BenchResults, measure: Measure) -> list[Picture]:
    if results.baseline is None:
        return []
    differences = {
        method: {pair: against_baseline(results, pair, method, measure) for pair in results.pairs}
        for method in results.others
    }
    caption = f"{measure.title} accuracy: difference to {results.baseline}, {_DIFFERENCE}"
    return _heat_picture(results, differences, caption, marked=True)


def _mean(results: BenchResults, pair: ModelPair, method: str, read: Callable[[Run], float]) -> Estimate:
    return estimate(list(results.values(pair, method, read).values()))


def _heat_picture(
    results: BenchResults, estimates: dict[str, dict[ModelPair, Estimate]], caption: str, *, marked: bool
) -> list[Picture]:
    """A panel per method, on one scale."""
    means = [abs(e.mean) for by_pair in estimates.values() for e in by_pair.values() if e.n]
    if not means:
        return []
    rows = list(dict.fromkeys(pair.teacher for pair in results.pairs))
    columns = list(dict.fromkeys(pair.student for pair in results.pairs))
    panels = [
        heat_map(
            method,
            rows,
            columns,
            [[_tile(by_pair.get(ModelPair(row, column)), marked) for column in columns] for row in rows],
            100 * max(*means, 1e-4),
        )
        for method, by_pair in estimates.items()
        if any(e.n for e in by_pair.values())
    ]
    return [Picture(f"Rows are teachers, columns students. {caption}", panels, wide=18)]


def _tile(share: Estimate | None, marked: bool) -> Tile:
    if share is None or share.n == 0:
        return Tile(math.nan, NOTHING)
    mark = {"none": "\n≈", "": "\n?"}.get(share.verdict, "") if marked else ""
    return Tile(100 * share.mean, signed(share.mean, 1 if not marked else 2) + mark)


def trade_offs(results: BenchResults, looks: dict[str, Style], legend: list[tuple[str, str]]) -> list[Block]:
    """Accuracy against FLOPs, a panel per pair."""
    pictures: list[Block] = []
    for measure in ACCURACIES:
        points = {str(pair): _points(results, pair, measure, looks) for pair in results.pairs}
        panels = [against_flops(pair, p, f"{measure.name} accuracy, %") for pair, p in points.items() if p]
        if panels:
            pictures.append(Picture(f"{measure.title} accuracy {_TRADE_OFF}", panels, legend))
    return pictures


def _points(results: BenchResults, pair: ModelPair, measure: Measure, looks: dict[str, Style]) -> list[Point]:
    points = []
    for method in results.methods:
        accuracies = results.values(pair, method, measure.read)
        costs = results.values(pair, method, spent_flops)
        runs = [(costs[seed], accuracies[seed]) for seed in accuracies if seed in costs]
        if runs:
            mean = estimate([cost for cost, _ in runs]).mean
            points.append(Point(looks[method], mean, estimate([value for _, value in runs]), runs))
    return points
