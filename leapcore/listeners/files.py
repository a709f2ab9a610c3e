"""What a run tells, in files that its resumption and its report read: JSON lines, and a log."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leapcore.events import CkaMap, TargetChange
from leapcore.hookspecs import hookimpl


class SkippedLog:
    """``skipped.log``: a line per image that could not be read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "skipped.log"

    @hookimpl
    def leapcore_images_skipped(self, step: int, images: dict[str, str]) -> None:
        """Add them."""
        with self._path.open("a") as file:
            file.writelines(f"step {step}: {name}: {reason}\n" for name, reason in images.items())


class JsonLines:
    """``metrics.jsonl``: a line per report and per change of target."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"

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
        self._path = folder / "cka_maps.jsonl"

    @hookimpl
    def leapcore_cka_map(self, step: int, maps: list[CkaMap]) -> None:
        """Add the maps."""
        for found in maps:
            _append(self._path, {"step": step, **asdict(found)})


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
