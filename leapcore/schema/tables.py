"""A schema as tables for people: key, type with its unit, default, what it does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from leapcore.core.duration import duration_pattern
from leapcore.schema.build import Schema

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_WORDS = {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}


def table(section: Schema, defs: Schema) -> str:
    """One row per key, in Markdown.

    Args:
        section: The schema of an object.
        defs: Definitions that its references name.
    """
    rows = ["| key | type | default | what it does |", "| --- | --- | --- | --- |"]
    for key, schema in section["properties"].items():
        if "const" not in schema:  # the name of the section itself
            cells = (f"`{key}`", kind(schema), _default(key, section), _description(schema, defs))
            rows.append(f"| {' | '.join(map(_escaped, cells))} |")
    return "\n".join(rows)


def _default(key: str, section: Schema) -> str:
    if key in section.get("required", ()):
        return "required"
    schema = section["properties"][key]
    return f"`{_as_yaml(schema['default'])}`" if "default" in schema else ""


def _description(schema: Schema, defs: Schema) -> str:
    """The key's own description, or that of the section that belongs there."""
    section = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else {}
    return str(schema.get("description", section.get("description", "")))


def kind(schema: Schema) -> str:
    """What a value can be, in words such as ``integer ≥ 1`` or ``duration (ep, st)``."""
    return " or ".join(dict.fromkeys(_kinds(schema)))


def _kinds(schema: Schema) -> Iterator[str]:
    """The alternatives, sections by name."""
    if "$ref" in schema:
        yield f"[{heading(schema)}](#{heading(schema).lower()})"
    elif "anyOf" in schema:
        for branch in schema["anyOf"]:
            yield from _kinds(branch)
    elif "enum" in schema:
        yield ", ".join(f"`{value}`" for value in schema["enum"])
    elif "const" in schema:
        yield f"`{schema['const']}`"
    else:
        yield _plain(schema)


def _plain(schema: Schema) -> str:
    if schema.get("title") == "duration":
        units = re.findall(r"\((.*)\)", schema["pattern"])[0].replace("|", ", ")
        return f"duration ({units})"
    name = {"array": _list, "object": _mapping}.get(schema.get("type", ""), _word)(schema)
    if {"minimum", "maximum"} <= schema.keys():
        return f"{name} from {schema['minimum']:g} to {schema['maximum']:g}"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join(filter(None, [name, ", ".join(bounds)]))


def _word(schema: Schema) -> str:
    word = schema.get("type", "anything")
    return str(schema.get("title", _WORDS.get(word, word)))


def _list(schema: Schema) -> str:
    if "prefixItems" in schema:
        return f"list of {', '.join(map(kind, schema['prefixItems']))}"
    return f"list of {kind(schema.get('items', {}))}"


def _mapping(schema: Schema) -> str:
    for pattern, value in schema.get("patternProperties", {}).items():
        keys = "durations" if pattern == duration_pattern("ep", "st")["pattern"] else "names"
        return f"mapping of {keys} to {kind(value)}"
    return "mapping"


def heading(schema: Schema) -> str:
    """The heading of the section that a reference leads to: ``Optimizer``."""
    return str(schema["$ref"].rpartition("/")[2].removesuffix("Spec").capitalize())


def _as_yaml(value: Any) -> str:
    """A default as one would write it: text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")
