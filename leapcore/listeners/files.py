"""A run's events in files, which its resumption and its report read: JSON lines, and a log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leapcore.files import write_whole
from leapcore.plugins.events import CkaMap, RunStart, TargetChange
from leapcore.plugins.hooks import hookimpl
from leapcore.runs.names import CKA_MAPS, METRICS, SKIPPED, START

# In spec.yaml; known to who reads; good for this process alone; set by listeners that come later.
_LEFT_OUT = ("spec", "folder", "forecast", "links")


class StartFile:
    """``start.json``: what is known before the first step; whoever watches the run needs it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / START

    @hookimpl
    def leapcore_run_started(self, start: RunStart) -> None:
        """Write it, whole or not at all; a run that goes on writes it anew."""
        spec = start.spec
        content = {
            "name": spec.name,
            "batch_size": spec.train.batch_size,
            "thresholds": start.thresholds,
            **{key: value for key, value in vars(start).items() if key not in _LEFT_OUT},
            "teachers": {name: asdict(facts) for name, facts in start.teachers.items()},
            "student": asdict(start.student),
        }
        write_whole(self._path, json.dumps(content, indent=1) + "\n")


class SkippedLog:
    """``skipped.log``: a line per image that could not be read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SKIPPED

    @hookimpl
    def leapcore_images_skipped(self, step: int, images: dict[str, str]) -> None:
        """Add them."""
        with self._path.open("a") as file:
            file.writelines(f"step {step}: {name}: {reason}\n" for name, reason in images.items())


class JsonLines:
    """``metrics.jsonl``: a line per report and per change of target."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS

    @hookimpl
    def leapcore_metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """Add the figures."""
        self._write({"step": step, **metrics})

    @hookimpl
    def leapcore_target_changed(self, event: TargetChange) -> None:
        """Add the change."""
        self._write({"event": "target_changed", **asdict(event)})

    def _write(self, record: dict[str, Any]) -> None:
        _append(self._path, record)


class CkaMapLines:
    """``cka_maps.jsonl``: a line per moment and teacher."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CKA_MAPS

    @hookimpl
    def leapcore_cka_map(self, step: int, maps: list[CkaMap]) -> None:
        """Add the maps."""
        for cka in maps:
            _append(self._path, {"step": step, **asdict(cka)})


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
