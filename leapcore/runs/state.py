"""How far a run is: the one set of words for it, in every command, report and table."""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """How far a run is; :attr:`leapcore.runs.reader.Run.state` finds out."""

    WAITING = "waiting"  # a cell of a benchmark that nobody has begun
    STARTING = "starting"  # a process holds the folder and loads what it needs
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # by Ctrl-C or SIGTERM; it goes on from its checkpoint
    FAILED = "failed"
    DEAD = "dead"  # begun, and its process is gone without a word: killed, or the machine went down
    FINISHED = "finished"

    @property
    def at_work(self) -> bool:
        """Whether a process is at it."""
        return self in (State.STARTING, State.RUNNING)

    def __str__(self) -> str:
        return self.value
