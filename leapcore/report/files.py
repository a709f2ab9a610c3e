"""Writing files whole or not at all."""

from __future__ import annotations

from pathlib import Path

from leapcore.errors import ReportError


def write_whole(path: Path, content: bytes) -> Path:
    """Replace a file by one rename, so that nobody ever reads half of it.

    Raises:
        ReportError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.tmp")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise ReportError(
            f"'{path}' cannot be written: {error}", "Free some space, or mend the folder's permissions."
        ) from error
    return path
