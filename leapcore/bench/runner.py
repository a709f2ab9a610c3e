"""Runs the cells of a benchmark, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from leapcore.bench.folder import BenchFolder
from leapcore.bench.matrix import Cell
from leapcore.distributed.cores import cores_each
from leapcore.distributed.launch import COMMAND
from leapcore.errors import Interrupted, Terminated
from leapcore.files import write_whole
from leapcore.runs.state import State
from leapcore.train.signals import Sigterm

_PAUSE = 0.2  # seconds between two looks at the processes
_TAIL = 5  # lines of a log that are shown of an end without a message


class Watcher(Protocol):
    """Follows what becomes of the cells."""

    def changed(self, cell: Cell, state: State, running: bool) -> None:
        """A cell has another state, or has begun to run here."""

    def tick(self) -> None:
        """Some time has passed."""


class Runner:
    """Runs cells, some at a time; one that fails stops no other.

    Args:
        folder: Where they are.
        jobs: How many at a time, each on its share of the cores and, in turn, on one of the GPUs.
        watcher: Follows what becomes of them.
        gpus: The machine's GPUs, as ``CUDA_VISIBLE_DEVICES`` names them.
    """

    def __init__(self, folder: BenchFolder, jobs: int, watcher: Watcher, gpus: Sequence[str] = ()) -> None:
        self._folder, self._watcher = folder, watcher
        self._free = deque(_environments(jobs, gpus))
        self._running: dict[subprocess.Popen[bytes], tuple[Cell, dict[str, str]]] = {}

    def run(self, cells: Sequence[Cell]) -> None:
        """Run all that are neither finished nor at work elsewhere.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the runs were stopped and are saved.
        """
        waiting = deque(cells)
        try:
            while waiting or self._running:
                while waiting and self._free:
                    self._begin(waiting.popleft())
                self._end_finished()
                self._watcher.tick()
                time.sleep(_PAUSE)
        except KeyboardInterrupt as stop:
            kind = Terminated if isinstance(stop, Sigterm) else Interrupted
            done = f"stopped; what was done is in {self._folder.path}"
            raise kind(done, "The same command goes on from there.") from None
        finally:
            self._stop()

    def _begin(self, cell: Cell) -> None:
        # As late as this: another machine may have finished or begun it in the meantime.
        state = self._folder.state(cell)
        if state is State.FINISHED or state.at_work:
            self._watcher.changed(cell, state, False)
            return
        self._folder.failure(cell).unlink(missing_ok=True)
        environment = self._free.popleft()
        spec, folder = self._folder.spec(cell), self._folder.run(cell).folder
        with self._folder.log(cell).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "run", str(spec), "--output", str(folder), "--resume=auto"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops them in order
            )
        self._running[process] = cell, environment
        self._watcher.changed(cell, state, True)

    def _end_finished(self) -> None:
        for process in [process for process in self._running if process.poll() is not None]:
            cell, environment = self._running.pop(process)
            self._free.append(environment)
            state = self._folder.state(cell)
            if state is not State.FINISHED and not state.at_work:
                write_whole(self._folder.failure(cell), failure(self._folder.log(cell), process.returncode))
                state = State.FAILED
            self._watcher.changed(cell, state, False)

    def _stop(self) -> None:
        """Let the runs save themselves; a second Ctrl-C does not wait for that."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        try:
            for process in self._running:
                process.wait()
        except KeyboardInterrupt:
            for process in self._running:
                process.kill()


def failure(log: Path, code: int) -> str:
    """Why a run failed, by its log: its error, else how it ended and its last lines."""
    text = ""
    with suppress(OSError):
        text = log.read_text(errors="replace")
    if error := re.search(r"^Error(?: on rank \d+)?: (.*)\Z", text, re.MULTILINE | re.DOTALL):
        return error[1]
    end = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " (the system may be short of memory)" if code == -signal.SIGKILL else ""
    return "\n".join([end + hint, *text.splitlines()[-_TAIL:]]) + "\n"


def _environments(jobs: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """For each of the processes: its share of the cores and its GPU, unless the user says otherwise."""
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores_each(jobs)))}
    devices: list[Mapping[str, str]] = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    return [{**threads, **devices[job % len(devices)]} for job in range(jobs)]
