"""Print the tables of docs/transfer.md from a benchmark's rows, as Markdown.

python benchmarks/transfer/tables.py benchmarks/transfer/results/transfer.csv
python benchmarks/transfer/tables.py benchmarks/transfer/results/ablations.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

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
        """A column of shares in %, by seed; a time that was not measured is left out."""
        wanted = (*pair, method)
        found = [row for row in self._rows if (row["teacher"], row["student"], row["method"]) == wanted]
        return {int(row["seed"]): 100 * float(row[column]) for row in found if row[column]}

    def mean(self, pair: Pair, method: str, column: str) -> Estimate:
        """The mean of a column over the seeds."""
        return estimate(list(self.values(pair, method, column).values()))

    def time_saved(self, pair: Pair, method: str, other: str) -> Estimate:
        """The share of training time that a method took less than another, in %."""
        own, others = (self.values(pair, name, "training_seconds") for name in (method, other))
        saved = paired_saving(own, others)
        return Estimate(100 * saved.mean, 100 * saved.half, saved.n)

    def difference(self, pair: Pair, method: str, other: str, column: str) -> Estimate:
        """The mean difference of two methods over the seeds that both have."""
        return paired(self.values(pair, method, column), self.values(pair, other, column))


def main() -> None:
    rows = Rows(Path(sys.argv[1]))
    compared = {method for names in DIFFERENCES for method in names}
    for line in matrix(rows) if compared <= {*rows.methods} else by_method(rows):
        print(line)


def matrix(rows: Rows) -> Iterator[str]:
    """A table per accuracy: a row for each teacher and student, a column for each comparison."""
    for column in ACCURACIES.values():
        titles = [f"{method} − {other}" for method, other in DIFFERENCES]
        yield from _heading(["teacher → student", "fixed", *titles, "FLOPs saved by leap, %", "time, %"])
        for pair in rows.pairs:
            differences = [_signed(rows.difference(pair, *names, column)) for names in DIFFERENCES]
            saved = [rows.mean(pair, "leap", "flops_saved"), rows.time_saved(pair, "leap", "fixed")]
            shares = [f"{found.mean:.1f}" for found in saved]
            yield _row([_named(pair), _level(rows.mean(pair, "fixed", column)), *differences, *shares])
        yield ""


def by_method(rows: Rows) -> Iterator[str]:
    """A table per pair: a row for each of its methods, compared with the first one."""
    baseline = rows.methods[0]
    titles = [title for name in ACCURACIES for title in (f"{name}, %", f"− {baseline}")]
    for pair in rows.pairs:
        yield from _heading([_named(pair), "seeds", *titles, "FLOPs saved, %"])
        for method in rows.methods:
            if rows.values(pair, method, "flops_saved"):
                yield _row([f"`{method}`", *_figures(rows, pair, method, baseline)])
        yield ""


def _figures(rows: Rows, pair: Pair, method: str, baseline: str) -> Iterator[str]:
    yield str(rows.mean(pair, method, "flops_saved").n)
    for column in ACCURACIES.values():
        yield _level(rows.mean(pair, method, column))
        yield "" if method == baseline else _signed(rows.difference(pair, method, baseline, column))
    yield f"{rows.mean(pair, method, 'flops_saved').mean:.1f}".replace("-", "−")


def _named(pair: Pair) -> str:
    return " → ".join(FAMILIES[name] for name in pair)


def _level(found: Estimate) -> str:
    return f"{found.mean:.2f}" + _interval(found)


def _signed(found: Estimate) -> str:
    rounded = round(found.mean, 2) + 0.0  # no minus before a zero
    return f"{rounded:+.2f}".replace("-", "−") + _interval(found) if found.n else "–"


def _interval(found: Estimate) -> str:
    return f" ± {found.half:.2f}" if found.n > 1 else ""


def _heading(titles: Sequence[str]) -> Iterator[str]:
    yield _row(titles)
    yield _row(["---"] * len(titles))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
