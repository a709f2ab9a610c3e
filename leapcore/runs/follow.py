"""Following a file of JSON lines while somebody writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from leapcore.runs.json_files import parse_json_object


class GrowingLines:
    """Hands out each line of a file once, as soon as it is whole.

    A run that goes on puts another file in the file's place, which begins with the same lines; it is
    handed out from where they differ.

    Args:
        path: The file, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._done = 0  # bytes that were handed out

    def new(self) -> list[dict[str, Any]]:
        """The objects in lines that are new since the last call."""
        self._open()
        if self._file is None:
            return []
        self._file.seek(self._done)
        whole = self._file.read().rpartition(b"\n")
        self._done += len(whole[0]) + len(whole[1])
        lines = whole[0].decode(errors="replace").splitlines()
        return [content for line in lines if (content := parse_json_object(line)) is not None]

    def _open(self) -> None:
        """Open the file, or the one that took its place."""
        try:
            if self._file and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                return
            newer = self._path.open("rb")
        except OSError:
            return
        if self._file:
            self._done = _length_in_common(self._file, newer, self._done)
            self._file.close()
        self._file = newer

    def close(self) -> None:
        """Let go of the file."""
        if self._file:
            self._file.close()


def _length_in_common(old: BinaryIO, new: BinaryIO, most: int) -> int:
    """How many bytes of whole lines two files have in common from their beginning, up to ``most``."""
    old.seek(0)
    length = 0
    while length < most:
        line = old.readline()
        if line != new.readline():
            break
        length += len(line)
    return length
