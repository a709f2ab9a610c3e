"""Files that may be missing, half written or damaged: what can be read of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MATRIX = "matrix.json"  # makes a folder a benchmark's
_CHUNK = 65536  # bytes at the end of a file of JSON lines, which hold the last of each kind


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


def last_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects at the end of a file of JSON lines, the newest first; a long file is not read whole."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _CHUNK))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [found for line in reversed(lines) if (found := parsed(line)) is not None]


def parsed(source: str) -> dict[str, Any] | None:
    """The object that a text in JSON is, None where it is none."""
    try:
        found = json.loads(source)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
