"""Completion in the shell: recipes, keys of a spec, backbone families. Nothing heavy is imported."""

from __future__ import annotations

import json
from glob import escape, glob
from typing import Any

import typer


def sources(incomplete: str) -> list[str]:
    """Recipes and YAML files; the shell itself completes folders where there are none."""
    files = [file for ending in ("yaml", "yml") for file in glob(f"{escape(incomplete)}*.{ending}")]
    return [*recipes(incomplete), *sorted(files)]


def recipes(incomplete: str) -> list[str]:
    """Names of recipes."""
    from leapcore.recipes import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def families(incomplete: str) -> list[str]:
    """Families of backbones, as plugins register them."""
    from leapcore.plugins.loader import installed_plugins

    names = installed_plugins().registries["backbones"].names()
    return [name for name in names if name.startswith(incomplete)]


def assignments(context: typer.Context, incomplete: str) -> list[str]:
    """``key=value`` for all keys, with the values of the spec that is named, to be changed."""
    from leapcore.spec.section import flat

    # An argument is not among the parameters yet, since --set lacks its value.
    spec = _spec(context.params.get("spec") or next(iter(context.args), "quickstart"))
    pairs = (f"{key}={_as_yaml(value)}" for key, value in flat(spec.model_dump(mode="json")))
    return [pair for pair in pairs if pair.startswith(incomplete)]


def _spec(source: str) -> Any:
    """The spec, or one that has all keys where it cannot be read."""
    from leapcore.errors import LeapcoreError
    from leapcore.spec.file import load_spec

    try:
        return load_spec(source)
    except LeapcoreError:
        return load_spec("quickstart")


def _as_yaml(value: Any) -> str:
    """In one word, as the shell takes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
