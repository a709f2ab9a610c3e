"""Messages of libraries: kept off the terminal unless the user asks for them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def library_noise(*, shown: bool, ours: int = logging.WARNING) -> Iterator[None]:
    """A context in which messages of leapcore reach standard error, and of other libraries errors alone.

    Args:
        shown: Show other libraries' messages and Python's warnings too.
        ours: The lowest level of leapcore's own messages that is shown.
    """
    if shown:
        os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "info")  # it has a handler of its own
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "INFO" if shown else "ERROR")  # as has torch's part in C++
    handler, root = _Handler(logging.INFO if shown else logging.ERROR, ours), logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)


class _Handler(logging.Handler):
    """Writes to what is standard error at that moment, since a progress bar puts itself in its place."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__()
        self._theirs, self._ours = theirs, ours

    def emit(self, record: logging.LogRecord) -> None:
        from rich.console import Console

        mine = record.name.partition(".")[0] == "leapcore"
        if record.levelno < (self._ours if mine else self._theirs):
            return
        origin = "" if mine else f" of {record.name}"
        stderr = Console(stderr=True, soft_wrap=True, highlight=False)
        stderr.print(f"{record.levelname.lower()}{origin}:", style="yellow", end=" ")
        stderr.print(record.getMessage().strip(), markup=False)
