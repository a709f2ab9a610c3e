"""The table of a comparison, from its runs: seconds per step, and the peer's over leapcore's.

    python benchmarks/peers/table.py runs/peers/runs.jsonl

Plain Python, without torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

WARM_UP = 2  # laps that do not count
CLOCKS = ("cpu_seconds", "seconds")
HEAD = "peer | its target | leapcore's target | peer, CPU s | leapcore, CPU s | CPU ratio | wall ratio"


class Pair(NamedTuple):
    """Two runs, one right after the other."""

    peer: dict[str, Any]
    ours: dict[str, Any]


def table(lines: Iterable[str]) -> str:
    """Markdown: a row per comparison; medians over its rounds, with the range of the paired ratios."""
    rows: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in _pairs([json.loads(line) for line in lines]):
        rows.setdefault((pair.peer["name"], pair.peer["goal"], pair.ours["goal"]), []).append(pair)
    ruler = " | ".join(["---"] * (HEAD.count("|") + 1))
    return "\n".join(f"| {line} |" for line in (HEAD, ruler, *map(_row, rows, rows.values())))


def step_time(run: dict[str, Any], clock: str) -> float:
    """Seconds per step: the median at each target layer, averaged over the targets."""
    laps: dict[int, list[float]] = {}
    for target, seconds in list(zip(run["targets"], run[clock], strict=True))[WARM_UP:]:
        laps.setdefault(target, []).append(seconds)
    return mean(map(median, laps.values()))


def _pairs(runs: Sequence[dict[str, Any]]) -> Iterator[Pair]:
    """Neighbours of one round of which one is leapcore."""
    for first, second in pairwise(runs):
        if first["round"] == second["round"]:
            if first["name"] == "leapcore" != second["name"]:
                yield Pair(second, first)
            elif second["name"] == "leapcore" != first["name"]:
                yield Pair(first, second)


def _row(title: tuple[str, str, str], pairs: Sequence[Pair]) -> str:
    peer, ours = (median(step_time(run, CLOCKS[0]) for run in runs) for runs in zip(*pairs, strict=True))
    return " | ".join([*title, f"{peer:.3f}", f"{ours:.3f}", *(_ratio(pairs, clock) for clock in CLOCKS)])


def _ratio(pairs: Sequence[Pair], clock: str) -> str:
    ratios = [step_time(pair.peer, clock) / step_time(pair.ours, clock) for pair in pairs]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text().splitlines()))
