"""Times of single steps, told as one line of JSON. The peers' environment imports it too."""

from __future__ import annotations

import json
import time


class Stopwatch:
    """Wall and CPU seconds of each step, from the end of the step before: loading its images is included.

    The first lap only starts the clocks, so a run of n steps gives n - 1 times.
    """

    def __init__(self) -> None:
        self.targets: list[int] = []
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self._last: tuple[float, float] | None = None

    def lap(self, target: int) -> None:
        """A step ended; its target was this teacher layer, counted from 1."""
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            self.targets.append(target)
            self.seconds.append(now[0] - self._last[0])
            self.cpu_seconds.append(now[1] - self._last[1])
        self._last = now

    def tell(self, name: str, version: str) -> None:
        """Print everything as the last line of the output."""
        columns = {"targets": self.targets, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        print("\n" + json.dumps({"name": name, "version": version, **columns}), flush=True)
