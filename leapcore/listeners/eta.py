"""When a run's last step will be done, knowing that deeper targets take longer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.progress import ProgressColumn, Task
from rich.text import Text

from leapcore.plugins.events import RunStart, figure_name
from leapcore.runs.forecast import StepTimes
from leapcore.runs.progress import clock


class EtaColumn(ProgressColumn):
    """The time that is left, for a progress bar over the steps; the time that was taken once it is full.

    The steps that are left are those of the run's forecast, each as long as steps of its FLOPs were so far.
    What else took time, such as evaluations, is expected to go on at the same rate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._run: RunStart | None = None
        self._times = StepTimes()
        self._reports = 0
        self._step, self._trained = 0, 0.0  # finished steps, and their seconds since the start
        self._began = self._reported = time.monotonic()
        self._left = math.nan

    def start(self, run: RunStart) -> None:
        """A run is about to take its first step, or the first one after a resume."""
        self._run, self._step, self._began = run, run.step, time.monotonic()

    def note(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Learn from a report on the steps since the last one."""
        if self._run is None or self._run.forecast is None:
            return
        forecast, teachers = self._run.forecast, self._run.teachers
        self._reports += 1
        if self._reports == 2:  # the first steps are slow ones, but better than nothing
            self._times = StepTimes()
        targets = {name: metrics[figure_name("target_layer", name, teachers)] - 1 for name in teachers}
        steps, seconds = step - self._step, self._run.spec.train.batch_size / metrics["images_per_second"]
        self._times.note(forecast.cost(targets), steps, seconds * steps)
        self._step, self._trained, self._reported = step, self._trained + seconds * steps, time.monotonic()
        besides = max(0.0, self._reported - self._began - self._trained) / max(1, step - self._run.step)
        self._left = sum(count * (self._times.of(cost) + besides) for count, cost in forecast.left(step))

    def render(self, task: Task) -> Text:
        """``ETA 0:01:40``, counted down between two reports; at the end ``took 0:03:20``."""
        if task.finished:
            return Text(f"took {clock(task.finished_time or 0.0)}", style="progress.elapsed")
        left = self._left - (time.monotonic() - self._reported)
        text = "-:--:--" if math.isnan(left) else clock(max(0.0, left))
        return Text(f"ETA {text}", style="progress.remaining")
