"""What a run does before its first step, stage by stage."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_LONGEST = 2  # stages that are named at the end


class Loading:
    """A spinner with the current stage in a terminal, a line per stage elsewhere.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = TaskID(-1)
        self._times: list[tuple[str, float]] = []  # each stage and when it began

    def stage(self, name: str) -> None:
        """The last stage is over, this one begins."""
        self._times.append((name, time.monotonic()))
        if not self._console.is_terminal:
            print_line(self._console, name)
            return
        if self._task >= 0:
            self._spinner.remove_task(self._task)
        self._task = self._spinner.add_task(name, total=None)
        self._spinner.start()

    def end(self) -> str:
        """The first step is next.

        Returns:
            What took how long; empty where there was no stage.
        """
        self.close()
        if not self._times:
            return ""
        ends = [began for _, began in self._times[1:]] + [time.monotonic()]
        took = [(name, end - began) for (name, began), end in zip(self._times, ends, strict=True)]
        longest = sorted(took, key=lambda stage: -stage[1])[:_LONGEST]
        took_longest = ", ".join(f"{name} {seconds:.1f}" for name, seconds in longest)
        return f"ready after {ends[-1] - self._times[0][1]:.1f} s ({took_longest}, …)"

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._spinner.stop()


def print_line(console: Console, text: str, style: str = "") -> None:
    """A plain line; in a log, with the time and however long."""
    log = not console.is_terminal
    clock = time.strftime("%H:%M:%S  ") if log else ""
    console.print(f"{clock}{text}", style=style, markup=False, highlight=False, soft_wrap=log)
