"""What the listeners that keep curves have in common: one name per figure, and no point twice."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leapcore.files import write_whole
from leapcore.plugins.events import RunReport, RunStart, TargetChange, figure_name
from leapcore.plugins.hooks import hookimpl
from leapcore.runs.names import LISTENERS
from leapcore.spec.section import flat


class Tracker(ABC):
    """Keeps a run's figures as curves over the steps."""

    _teachers: Collection[str] = ()
    _changes: list[TargetChange]

    @hookimpl
    def leapcore_run_started(self, start: RunStart) -> None:
        """Begin, or go on."""
        self._teachers, self._changes = start.teachers, []
        self._begin(start)

    @hookimpl
    def leapcore_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """Add a point to each figure's curve."""
        self._add(step, metrics)

    @hookimpl
    def leapcore_target_changed(self, event: TargetChange) -> None:
        """Add a point to the curve ``target_changed``: the layer from now on, counted from 1."""
        self._changes.append(event)
        self._add(event.step, {figure_name("target_changed", event.teacher, self._teachers): event.target})

    @abstractmethod
    def _begin(self, start: RunStart) -> None: ...

    @abstractmethod
    def _add(self, step: int, figures: dict[str, float]) -> None: ...


class Service(Tracker):
    """A tracker outside of the run's folder, which cannot take back what it was sent.

    What it was sent is noted in ``listeners/<name>.json`` of the run's folder. A resumed run goes on there,
    and what it would send for the second time, since it comes from a checkpoint, is left out.

    Attributes:
        name: How specs call it.
        run: The service's own name for this run; empty before it has one.
        folder: For files of its own.
    """

    name: str
    run: str
    folder: Path

    def _begin(self, start: RunStart) -> None:
        self.folder = start.folder.resolve() / LISTENERS
        self.folder.mkdir(exist_ok=True)
        self._file = self.folder / f"{self.name}.json"
        noted = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.run, self._step, self._figures = (
            noted.get("run", ""),
            noted.get("step", -1),
            noted.get("figures", []),
        )
        start.links[self.name] = self._open(start)
        self._note()

    def _add(self, step: int, figures: dict[str, float]) -> None:
        if step < self._step:
            return
        known = self._figures if step == self._step else []
        new = {name: value for name, value in figures.items() if name not in known}
        if new:
            self._send(step, new)
            self._step, self._figures = step, [*known, *new]
            self._note()

    def _note(self) -> None:
        noted = {"run": self.run, "step": self._step, "figures": self._figures}
        write_whole(self._file, json.dumps(noted))

    @abstractmethod
    def _open(self, start: RunStart) -> str:
        """Find the run of that name, or begin one and set :attr:`run`. Returns where to look at it."""

    @abstractmethod
    def _send(self, step: int, figures: dict[str, float]) -> None: ...


def summary(report: RunReport) -> dict[str, Any]:
    """A report's single values, each under its keys in ``summary.json`` joined by dots: ``flops.saved``."""
    values = dict(flat(asdict(report)))
    return {key: value for key, value in values.items() if isinstance(value, (int, float, str))}
