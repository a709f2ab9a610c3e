"""What pydantic finds wrong with a section of the spec, key by key, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from leapcore.errors import did_you_mean

KeyPath = tuple[str | int, ...]
KEYS = "The keys and their meaning: leapcore schema --markdown"


def problems_of(model: type[BaseModel], error: ValidationError) -> dict[KeyPath, str]:
    """What is wrong, by the path of the key; branches of a union are told together.

    Args:
        model: What was validated.
        error: What pydantic said.
    """
    problems: dict[KeyPath, list[str]] = {}
    for detail in error.errors():
        path = _key_path(model, detail["loc"])
        problems.setdefault(path, []).append(_problem(model, path, detail))
    return {path: "; or ".join(dict.fromkeys(found)) for path, found in problems.items()}


def _problem(model: type[BaseModel], path: KeyPath, detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown key. {did_you_mean(str(path[-1]), _fields_at(model, path[:-1]))}"
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] in ("model_type", "dict_type"):
        return f"should be a section of keys, got {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    told = "got" in message or (detail["type"] == "value_error" and isinstance(detail["input"], dict))
    return message if told else f"{message}, got {detail['input']!r}"


def _key_path(model: type[BaseModel], location: Iterable[str | int]) -> KeyPath:
    """The part of pydantic's location that names keys of the spec, without the branches of unions."""
    path: list[str | int] = []
    for part in location:
        at = _annotation_at(model, tuple(path))
        names_key = at is model or _is_mapping(at) or hasattr(at, "model_fields") or isinstance(part, int)
        if not names_key or part == "[key]":
            break
        path.append(part)
    return tuple(path)


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the section at this path takes; none where it is a plain value."""
    return list(getattr(_annotation_at(model, path), "model_fields", {}))


def _annotation_at(model: type[BaseModel], path: KeyPath) -> Any:
    """What belongs at this path: a section, a mapping of sections, or the type of a plain value."""
    current: Any = model
    for part in path:
        if _is_mapping(current):
            current = get_args(current)[1]
            continue
        field = getattr(current, "model_fields", {}).get(part)
        current = _without_none(field.annotation) if field else None
    return current


def _is_mapping(annotation: Any) -> bool:
    values = get_args(annotation)[1:] if get_origin(annotation) is dict else ()
    return any(hasattr(value, "model_fields") for value in values)


def _without_none(annotation: Any) -> Any:
    """``Section`` where the annotation is ``Section | None``."""
    branches = [branch for branch in get_args(annotation) if hasattr(branch, "model_fields")]
    return annotation if _is_mapping(annotation) or len(branches) != 1 else branches[0]
