"""JSON schemas (draft 2020-12) of a run's spec and of a benchmark's, with what the plugins add.

They describe each key as pydantic's models do; contradictions between keys are left to ``leapcore validate``.
"""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from leapcore.bench.spec import BenchSpec
from leapcore.errors import PluginError
from leapcore.plugins.loader import Plugins
from leapcore.spec import CurriculumSpec, Spec
from leapcore.spec.options import options_model

DIALECT = "https://json-schema.org/draft/2020-12/schema"
OPTIONS = "curriculum."  # definitions of schedulers' options are called "curriculum.cka", …

Schema = dict[str, Any]

_DEFAULT_SCHEDULER = CurriculumSpec().scheduler
# Sections whose key names something that plugins register.
_NAMES = (
    ("BackboneSpec", "backbone", "backbones"),
    ("TeacherSpec", "backbone", "backbones"),
    ("ObjectiveSpec", "patch", "losses"),
)
# A run has one teacher, or several; a spec that is written out holds the other as null or {}.
_TEACHERS = {
    "if": {"properties": {"teachers": {"minProperties": 1}}, "required": ["teachers"]},
    "then": {"properties": {"teacher": {"type": "null"}}},
    "else": {"properties": {"teacher": {"type": "object"}}, "required": ["teacher"]},
}


class _Generator(GenerateJsonSchema):
    """As pydantic's, without titles that repeat the key, and strict where keys have a pattern."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False

    def dict_schema(self, schema: Any) -> Schema:
        """A mapping whose keys follow a pattern has no other keys."""
        mapping = super().dict_schema(schema)
        return mapping | {"additionalProperties": False} if "patternProperties" in mapping else mapping


def run_schema(plugins: Plugins) -> Schema:
    """The schema of a run's spec.

    Args:
        plugins: Those whose backbones, schedulers, losses and data sources may be named.
    """
    return {"$schema": DIALECT, **_run(plugins, "#/$defs/"), **_TEACHERS}


def bench_schema(plugins: Plugins) -> Schema:
    """The schema of a benchmark's spec; see :func:`run_schema`."""
    schema, place = _schema_of(BenchSpec, "#/$defs/"), "#/$defs/run"
    _name_plugins(schema["$defs"], plugins)
    run = _run(plugins, f"{place}/$defs/", partial=True)
    part, properties = {"$ref": place}, schema["properties"]
    properties["shared"].update(part)
    properties["methods"]["patternProperties"] = dict.fromkeys(
        properties["methods"]["patternProperties"], part
    )
    schema["$defs"]["ExceptionSpec"]["properties"]["set"].update(part)
    schema["$defs"]["run"] = run
    return {"$schema": DIALECT, **schema}


def _run(plugins: Plugins, place: str, *, partial: bool = False) -> Schema:
    """The spec's own schema; ``partial``: for some of its keys, which go over others.

    Args:
        plugins: What may be named.
        place: Where references find its definitions.
        partial: Whether nothing is required.
    """
    schema = _schema_of(Spec, place)
    defs = schema["$defs"]
    for section in (schema, *defs.values()) if partial else ():
        section.pop("required", None)
    _name_plugins(defs, plugins)
    _name_listeners(schema["properties"]["listeners"], plugins)
    _name_schedulers(defs, plugins, place, default=not partial)
    return schema


def _schema_of(model: type[BaseModel], place: str) -> Schema:
    schema = model.model_json_schema(schema_generator=_Generator, ref_template=place + "{model}")
    for section in (schema, *schema.get("$defs", {}).values()):
        if "description" in section:  # the rest of a docstring is meant for code
            section["description"] = " ".join(section["description"].partition("\n\n")[0].split())
        for key in section.get("properties", {}).values():
            if "$ref" in key:
                key.pop("default", None)  # a section's, which its own keys have
    return schema


def _name_plugins(defs: Schema, plugins: Plugins) -> None:
    """The names that plugins register, in the sections that are there."""
    for section, key, kind in _NAMES:
        if section in defs:
            defs[section]["properties"][key]["enum"] = plugins.registries[kind].names()
    if "DataSpec" in defs:
        names = plugins.registries["datasets"].names()
        named = {"type": "string", "title": "reader/NAME", "pattern": f"^({'|'.join(names)})/."}
        source = defs["DataSpec"]["properties"]["source"]
        source.pop("type")
        source["anyOf"] = [{"enum": names}, named]


def _name_listeners(listeners: Schema, plugins: Plugins) -> None:
    """A mapping of options by name, or a list of names and of such mappings with one entry."""
    names = plugins.registries["listeners"].names()
    known = {name: _listener_options(plugins, name) for name in names}
    chosen = {"type": "object", "properties": known, "additionalProperties": False}
    entry = {"anyOf": [{"enum": names}, {**chosen, "minProperties": 1, "maxProperties": 1}]}
    for key in ("type", "patternProperties", "additionalProperties"):
        listeners.pop(key, None)
    listeners["anyOf"] = [chosen, {"type": "array", "items": entry}]


def _listener_options(plugins: Plugins, name: str) -> Schema:
    try:
        schema = options_model(plugins.get("listeners", name)).model_json_schema(schema_generator=_Generator)
    except PluginError:
        return {}
    return {"anyOf": [schema, {"type": "null"}]}


def _name_schedulers(defs: Schema, plugins: Plugins, place: str, *, default: bool) -> None:
    """The names of schedulers, and for each the rule that its own options apply."""
    names, curriculum = plugins.registries["schedulers"].names(), defs["CurriculumSpec"]
    sections = {name: section for name in names if (section := _options(plugins, name, place))}
    curriculum["allOf"] = [_rule(name, place, default=default) for name in sections]
    curriculum["properties"]["scheduler"]["enum"] = names
    for name, section in sections.items():
        defs.update(section.pop("$defs", {}) | {f"{OPTIONS}{name}": section})


def _rule(name: str, place: str, *, default: bool) -> Schema:
    """Where this scheduler is named, or is the default, its options apply."""
    condition: Schema = {"properties": {"scheduler": {"const": name}}}
    if not (default and name == _DEFAULT_SCHEDULER):
        condition["required"] = ["scheduler"]
    return {"if": condition, "then": {"$ref": f"{place}{OPTIONS}{name}"}}


def _options(plugins: Plugins, name: str, place: str) -> Schema:
    """A scheduler's options with the key that names it; nothing where its plugin is broken."""
    try:
        factory = plugins.get("schedulers", name)
        schema = _schema_of(options_model(factory), place)
    except PluginError:
        return {}
    summary = inspect.cleandoc(factory.__doc__ or "").partition("\n\n")[0]
    properties = {"scheduler": {"const": name}, **schema.get("properties", {})}
    return {**schema, "title": name, "description": " ".join(summary.split()), "properties": properties}
