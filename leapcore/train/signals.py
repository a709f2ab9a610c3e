"""Ctrl-C and SIGTERM: finish the step, save, and end."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM)


class Sigterm(KeyboardInterrupt):
    """SIGTERM where no step is under way: it ends what is being done at once, as Ctrl-C does."""


def raise_at_sigterm() -> None:
    """Install a handler that turns SIGTERM into :class:`Sigterm`; :class:`StopSignals` takes its place."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Sigterm

    signal.signal(signal.SIGTERM, stop)


class StopSignals:
    """Notes that the run is to stop; a second Ctrl-C stops at once, as Python does by itself.

    Attributes:
        received: The signal's number, 0 if none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        # Only the main thread may handle signals; elsewhere somebody else decides what they mean.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in WATCHED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
