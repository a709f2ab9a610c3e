"""In which settings the methods of a bench differ."""

from __future__ import annotations

from typing import Any

from leapcore.report.document import Table
from leapcore.report.numbers import NOTHING
from leapcore.report.results import Results
from leapcore.section import flat


def method_differences(results: Results) -> list[Table]:
    """A row per setting that differs, a column per method; none if fewer than two methods have begun."""
    specs = _specs(results)
    if len(specs) < 2:
        return []
    keys = dict.fromkeys(key for spec in specs.values() for key in spec if key != "name")
    told = {key: [spec.get(key, NOTHING) for spec in specs.values()] for key in keys}
    rows = [[key, *values] for key, values in told.items() if len(set(values)) > 1]
    caption = "Settings in which the methods differ, as their resolved specs have them; all others are alike."
    return [Table(["setting", *specs], rows, caption, stubs=1 + len(specs))] if rows else []


def _specs(results: Results) -> dict[str, dict[str, str]]:
    """Each method's spec, all of the pair and seed that most methods have begun."""
    groups: dict[Any, dict[str, str]] = {}
    for cell in results.cells:
        if spec := cell.run.spec:
            groups.setdefault((cell.pair, cell.plan.seed), {})[cell.plan.method] = spec
    most = max(groups.values(), key=len, default={})
    return {method: _told(most[method]) for method in results.methods if method in most}


def _told(spec: str) -> dict[str, str]:
    """A spec's settings by dotted keys; none of one that is half written."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="safe").load(spec)
    except YAMLError:
        return {}
    settings = flat(found) if isinstance(found, dict) else ()
    return {key: NOTHING if value is None else str(value) for key, value in settings}
