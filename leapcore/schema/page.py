"""The page of all keys, docs/spec.md: words and examples of a template, tables of the schemas."""

from __future__ import annotations

from importlib.resources import files

from leapcore.plugins.loader import Plugins
from leapcore.schema.build import OPTIONS, bench_schema, run_schema
from leapcore.schema.tables import table


def page(plugins: Plugins) -> str:
    """All keys of a run's spec and of a benchmark's, in Markdown.

    Args:
        plugins: Those whose schedulers, losses and so on it describes.
    """
    from jinja2 import Environment, StrictUndefined

    run, bench = run_schema(plugins), bench_schema(plugins)
    defs = {**bench["$defs"], **run["$defs"], "Run": run, "Bench": bench}

    def keys_of(name: str) -> str:
        return f"{defs[name]['description']}\n\n{table(defs[name], defs)}"

    schedulers = [name.removeprefix(OPTIONS) for name in defs if name.startswith(OPTIONS)]
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(_template())
    return template.render(keys_of=keys_of, schedulers=schedulers, options=OPTIONS)


def _template() -> str:
    return (files(__package__) / "page.md.jinja").read_text(encoding="utf-8")
