"""In which settings runs differ."""

from __future__ import annotations

from collections.abc import Mapping

from leapcore.report.document import Table
from leapcore.report.numbers import NOTHING
from leapcore.runs.reader import Run
from leapcore.spec.section import flat


def differences(runs: Mapping[str, Run], caption: str) -> list[Table]:
    """A row per setting in which runs differ, a column per run, by its name here; none if they do not.

    Args:
        runs: Those whose specs can be read are compared.
        caption: What the table shows.
    """
    specs = {name: settings for name, run in runs.items() if (settings := _by_key(run))}
    if len(specs) < 2:
        return []
    keys = dict.fromkeys(key for spec in specs.values() for key in spec if key != "name")
    values = {key: [spec.get(key, NOTHING) for spec in specs.values()] for key in keys}
    rows = [[key, *row] for key, row in values.items() if len(set(row)) > 1]
    caption += ", as their resolved specs have them; all others are alike."
    return [Table(["setting", *specs], rows, caption, stubs=1 + len(specs))] if rows else []


def _by_key(run: Run) -> dict[str, str]:
    """A run's settings by dotted keys."""
    return {key: NOTHING if value is None else str(value) for key, value in flat(run.settings)}
