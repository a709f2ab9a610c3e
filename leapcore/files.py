"""Writing files whole: nobody ever sees half of one, and a power cut leaves what was synced."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".tmp"


def write_whole(path: Path, content: str | bytes, *, synced: bool = False) -> None:
    """Write a file so that nobody ever sees half of it, however many processes write it at once.

    Args:
        path: The file, replaced if it is there.
        content: Its text, in UTF-8, or its bytes.
        synced: Return only when it is on disk, where a power cut leaves it.

    Raises:
        OSError: It cannot be written; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            if synced:
                sync(file)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if synced:
        sync_folder(path.parent)


def remove_partial(path: Path) -> None:
    """Remove what a killed :func:`write_whole` of this file left."""
    for partial in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Make sure that what was written to an open file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make sure that a folder's entries are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
