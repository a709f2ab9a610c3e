"""Files that may be missing, half written or damaged: what can be read of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """Something that was read: keys that are not known here are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def text(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def json_object(path: Path) -> dict[str, Any] | None:
    """A JSON file's object, None where there is none."""
    return parsed(text(path))


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; other and half lines are skipped."""
    for line in text(path).splitlines():
        if (found := parsed(line)) is not None:
            yield found


def as_record(kind: type[AnyRecord], found: dict[str, Any] | None) -> AnyRecord | None:
    """An object as a record, None where it is not one."""
    try:
        return None if found is None else kind.model_validate(found)
    except ValidationError:
        return None


def parsed(source: str) -> dict[str, Any] | None:
    """The object that a text in JSON is, None where it is none."""
    try:
        found = json.loads(source)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
