"""Print the tables of docs/transfer.md from a benchmark's rows, as Markdown.

python benchmarks/transfer/tables.py benchmarks/transfer/results/transfer.csv
python benchmarks/transfer/tables.py benchmarks/transfer/results/ablations.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from leapcore.report.document import Table
from leapcore.report.markdown import table
from leapcore.report.numbers import NOTHING, difference, level, percent
from leapcore.report.statistics import Estimate, estimate, paired, paired_saving

FAMILIES = {"vit": "ViT", "convnext": "ConvNeXt", "coatnet": "CoAtNet"}
ACCURACIES = {"kNN": "accuracy_knn", "probe": "accuracy_linear"}
DIFFERENCES = (
    ("leap", "fixed"),
    ("linear", "fixed"),
    ("leap", "linear"),
    ("random", "fixed"),
    ("all-layers", "fixed"),
)

Pair = tuple[str, str]


class Rows:
    """The rows of a benchmark's ``results.csv`` that are finished."""

    def __init__(self, file: Path) -> None:
        with file.open(newline="") as lines:
            self._rows = [row for row in csv.DictReader(lines) if row["status"] == "finished"]
        self.pairs: list[Pair] = list(dict.fromkeys((r["teacher"], r["student"]) for r in self._rows))
        self.methods = list(dict.fromkeys(row["method"] for row in self._rows))

    def values(self, pair: Pair, method: str, column: str) -> dict[int, float]:
        """A column by seed; a time that was not measured is left out."""
        wanted = (*pair, method)
        found = [row for row in self._rows if (row["teacher"], row["student"], row["method"]) == wanted]
        return {int(row["seed"]): float(row[column]) for row in found if row[column]}

    def mean(self, pair: Pair, method: str, column: str) -> Estimate:
        """The mean of a column over the seeds."""
        return estimate(list(self.values(pair, method, column).values()))

    def time_saved(self, pair: Pair, method: str, other: str) -> Estimate:
        """The share of training time that a method took less than another."""
        own, others = (self.values(pair, name, "training_seconds") for name in (method, other))
        return paired_saving(own, others)

    def difference(self, pair: Pair, method: str, other: str, column: str) -> Estimate:
        """The mean difference of two methods over the seeds that both have."""
        return paired(self.values(pair, method, column), self.values(pair, other, column))


def main() -> None:
    rows = Rows(Path(sys.argv[1]))
    compared = {method for names in DIFFERENCES for method in names}
    found = matrix(rows) if compared <= {*rows.methods} else by_method(rows)
    print("\n\n".join(map(table, found)))


def matrix(rows: Rows) -> Iterator[Table]:
    """A table per accuracy: a row for each teacher and student, a column for each comparison."""
    titles = [f"{method} − {other}" for method, other in DIFFERENCES]
    columns = ["teacher → student", "fixed", *titles, "FLOPs saved by leap, %", "time saved, %"]
    for column in ACCURACIES.values():
        yield Table(columns, [[_named(pair), *_compared(rows, pair, column)] for pair in rows.pairs])


def _compared(rows: Rows, pair: Pair, column: str) -> Iterator[str]:
    yield level(rows.mean(pair, "fixed", column))
    for names in DIFFERENCES:
        yield difference(rows.difference(pair, *names, column))
    yield percent(rows.mean(pair, "leap", "flops_saved").mean, 1)
    yield percent(rows.time_saved(pair, "leap", "fixed").mean, 1)


def by_method(rows: Rows) -> Iterator[Table]:
    """A table per pair: a row for each of its methods, compared with the first one."""
    baseline = rows.methods[0]
    titles = [title for name in ACCURACIES for title in (f"{name}, %", f"− {baseline}")]
    for pair in rows.pairs:
        methods = [method for method in rows.methods if rows.values(pair, method, "flops_saved")]
        figures = [[method, *_figures(rows, pair, method, baseline)] for method in methods]
        yield Table([_named(pair), "seeds", *titles, "FLOPs saved, %"], figures)


def _figures(rows: Rows, pair: Pair, method: str, baseline: str) -> Iterator[str]:
    saved = rows.mean(pair, method, "flops_saved")
    yield str(saved.n)
    for column in ACCURACIES.values():
        yield level(rows.mean(pair, method, column))
        yield (NOTHING if method == baseline else difference(rows.difference(pair, method, baseline, column)))
    yield percent(saved.mean, 1)


def _named(pair: Pair) -> str:
    return " → ".join(FAMILIES[name] for name in pair)


if __name__ == "__main__":
    main()
