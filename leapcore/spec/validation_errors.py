"""pydantic's errors about a section of the spec, key by key, in words that a user understands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from leapcore.errors import did_you_mean
from leapcore.spec.section import PATTERNS_IN_WORDS

KeyPath = tuple[str | int, ...]
KEYS = "All keys: leapcore schema --markdown"
UNKNOWN = "unknown key"

_OTHER_NAMES = {"epochs": "train.duration: 10ep", "steps": "train.duration: 2000st"}  # of other programs


def error_messages(
    model: type[BaseModel], error: ValidationError, unknown: str = UNKNOWN
) -> dict[KeyPath, str]:
    """One message for each wrong key; those of a union's branches are joined.

    Args:
        model: The section that was validated.
        error: pydantic's errors about it.
        unknown: The message for a key that is not known.
    """
    messages: dict[KeyPath, list[str]] = {}
    for detail in error.errors():
        path = _key_path(model, detail["loc"])
        messages.setdefault(path, []).append(_message(model, path, detail, unknown))
    return {path: _joined(of_branches) for path, of_branches in messages.items()}


def _joined(messages: list[str]) -> str:
    """The messages of a union's branches as one; the value that they all got stands once."""
    *others, last = dict.fromkeys(messages)
    got = last[last.rfind(", got ") :] if ", got " in last else ""
    return "; or ".join([*(other.removesuffix(got) for other in others), last])


def remedy_for(model: type[BaseModel], wrong: Iterable[KeyPath], prefix: KeyPath = ()) -> str:
    """What a key means, if a single one that is known is wrong; and where all are described."""
    *others, path = wrong
    section = getattr(_annotation_at(model, path[:-1]), "model_fields", {})
    field = section.get(path[-1]) if path and not others else None
    if field is None or not field.description:
        return KEYS
    return f"{'.'.join(map(str, prefix + path))}: {field.description}\n{KEYS}"


def _message(model: type[BaseModel], path: KeyPath, detail: Any, unknown: str) -> str:
    kind, got = detail["type"], "nothing (null)" if detail["input"] is None else repr(detail["input"])
    if kind == "extra_forbidden":
        return f"{unknown}. {_suggestion(model, path)}".strip()
    if kind == "missing":
        return "is missing"
    if kind in ("model_type", "dict_type"):
        return f"should be a section of keys, got {got}"
    if kind == "tuple_type":
        return f"should be a list of two numbers, such as [0.5, 1.0], got {got}"
    if kind == "string_pattern_mismatch" and detail["ctx"]["pattern"] in PATTERNS_IN_WORDS:
        return f"should be {PATTERNS_IN_WORDS[detail['ctx']['pattern']]}, got {got}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    names_value = "got" in message or (kind == "value_error" and isinstance(detail["input"], dict))
    return message if names_value else f"{_without_valid(message)}, got {got}"


def _without_valid(message: str) -> str:
    """pydantic's "a valid integer" as "an integer"."""
    return re.sub(r"\ba valid (?=(\w))", lambda match: "an " if match[1] in "aeiou" else "a ", message)


def _suggestion(model: type[BaseModel], path: KeyPath) -> str:
    """The key that an unknown one may stand for: one of that name elsewhere, or the nearest here."""
    name = str(path[-1])
    if name in _OTHER_NAMES:
        return f"Write {_OTHER_NAMES[name]}."
    elsewhere = [key for key in _keys(model) if key.rpartition(".")[2] == name]
    if elsewhere:
        return f"Did you mean {' or '.join(elsewhere)}?"
    return did_you_mean(name, _fields_at(model, path[:-1]))


def _keys(model: Any, prefix: str = "") -> Iterator[str]:
    """All keys of a section and of those inside it, with dots."""
    for name, field in getattr(model, "model_fields", {}).items():
        yield f"{prefix}{name}"
        yield from _keys(_without_none(field.annotation), f"{prefix}{name}.")


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
