"""Text and JSON files that may be missing, half written or damaged: what can be read of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_END = 65536  # bytes at the end of a file of JSON lines, which hold the last line of each kind


def read_text(path: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_json_object(path: Path) -> dict[str, Any] | None:
    """A JSON file's object, None where there is none."""
    return parse_json_object(read_text(path))


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; other and half lines are skipped."""
    return _objects(read_text(path).splitlines())


def read_last_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects at the end of a file of JSON lines, the newest first; a long file is not read whole."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _END))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return list(_objects(reversed(lines)))


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    return (content for line in lines if (content := parse_json_object(line)) is not None)


def parse_json_object(text: str) -> dict[str, Any] | None:
    """The object that a text in JSON is, None where it is none.

    >>> parse_json_object('{"step": 3}')
    {'step': 3}
    >>> parse_json_object('{"step"')
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
