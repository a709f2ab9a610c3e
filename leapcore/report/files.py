"""Writing files whole or not at all."""

from __future__ import annotations

from pathlib import Path

from leapcore import files
from leapcore.errors import ReportError


def write_report_file(path: Path, content: bytes) -> Path:
    """Replace a file by one rename, so that nobody ever reads half of it.

    Raises:
        ReportError: It cannot be written.
    """
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise ReportError(
            f"'{path}' cannot be written: {error}", "Free some space, or mend the folder's permissions."
        ) from error
    return path
