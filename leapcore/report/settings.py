"""In which settings runs differ, and the methods of a bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leapcore.report.bench_results import Results
from leapcore.report.document import Table
from leapcore.report.numbers import NOTHING
from leapcore.runs.read import Run
from leapcore.spec.section import flat


def method_differences(results: Results) -> list[Table]:
    """A row per setting that differs, a column per method; none if fewer than two methods have begun."""
    return differences(_runs(results), "Settings in which the methods differ")


def differences(runs: Mapping[str, Run], caption: str) -> list[Table]:
    """A row per setting in which runs differ, a column per run, by its name here; none if they do not.

    Args:
        runs: Those whose specs can be read are compared.
        caption: What the table shows.
    """
    specs = {name: settings for name, run in runs.items() if (settings := _told(run))}
    if len(specs) < 2:
        return []
    keys = dict.fromkeys(key for spec in specs.values() for key in spec if key != "name")
    told = {key: [spec.get(key, NOTHING) for spec in specs.values()] for key in keys}
    rows = [[key, *values] for key, values in told.items() if len(set(values)) > 1]
    caption += ", as their resolved specs have them; all others are alike."
    return [Table(["setting", *specs], rows, caption, stubs=1 + len(specs))] if rows else []


def _runs(results: Results) -> dict[str, Run]:
    """A run of each method, all of the pair and seed that most methods have begun."""
    groups: dict[Any, dict[str, Run]] = {}
    for cell in results.cells:
        if cell.run.spec:
            groups.setdefault((cell.pair, cell.plan.seed), {})[cell.plan.method] = cell.run
    most = max(groups.values(), key=len, default={})
    return {method: most[method] for method in results.methods if method in most}


def _told(run: Run) -> dict[str, str]:
    """A run's settings by dotted keys."""
    return {key: NOTHING if value is None else str(value) for key, value in flat(run.settings)}
