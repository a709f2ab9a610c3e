"""One key's folder: what it stands for in ``key.json``, and its segments."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from leapcore.cache.layout import Layout, Records
from leapcore.cache.segments import INDEX, OwnSegment, Place, Segment, Stamp
from leapcore.errors import PluginError

logger = logging.getLogger(__name__)

KEY = "key.json"


class Shelf:
    """All records of one key, by the digest of their view.

    Args:
        path: The folder, which need not be there yet.
        key: What it stands for.
        rank: Of this process.

    Attributes:
        path: The folder.
        layout: Of the records; None as long as there are none.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], rank: int) -> None:
        self.path, self._key, self._rank = path, key, rank
        self.layout: Layout | None = None
        self._places: dict[bytes, Place] = {}
        self._others: dict[str, Segment] = {}
        self._own: OwnSegment | None = None
        self._warned = False
        self.refresh()

    def refresh(self) -> None:
        """Note that it is used, and learn what others have added since."""
        with suppress(OSError):
            os.utime(self.path / KEY)
        if self.layout is None:
            self.layout = _layout(self.path / KEY)
        if self.layout is not None:
            for name in self._other_names():
                self._learn(name)

    def _other_names(self) -> list[str]:
        """The other processes' segments, the newest first, whose records count."""
        mine = self._own.stem.name if self._own else None
        try:
            entries = [entry for entry in os.scandir(self.path) if entry.name.endswith(INDEX)]
            found = [(entry.stat().st_mtime_ns, entry.name.removesuffix(INDEX)) for entry in entries]
        except OSError:  # gone, or about to
            return []
        return [name for _, name in sorted(found, reverse=True) if name != mine]

    def _learn(self, name: str) -> None:
        with suppress(OSError):  # deleted in this moment
            if name not in self._others:
                self._others[name] = Segment(self.path / name)
            for view, place in self._others[name].fresh():
                self._places.setdefault(view, place)

    def read(self, names: Sequence[bytes]) -> tuple[Records, list[Stamp | None]]:
        """The records of some views (len(names), bytes), and when they were computed: None if not found."""
        size = self.layout.size if self.layout else 0
        records, stamps = np.empty((len(names), size), np.uint8), list[Stamp | None]()
        for name, row in zip(names, records, strict=True):
            place = self._places.get(name)
            found = place.read(size) if place else None
            if place and found is None:
                self._forget(name)
            if found is not None:
                row[:] = np.frombuffer(found, np.uint8)
            stamps.append(place.stamp if place and found else None)
        return records, stamps

    def _forget(self, name: bytes) -> None:
        del self._places[name]
        if not self._warned:
            self._warned = True
            logger.warning("the cache in '%s' is damaged; what cannot be read is computed again", self.path)

    def expect(self, layout: Layout) -> None:
        """Make sure that features which were just computed look like those in here.

        Raises:
            PluginError: They do not.
        """
        if self.layout not in (None, layout):
            raise PluginError(
                f"a teacher's features do not have the form of those that it gave before, in '{self.path}'",
                "Delete that folder; a backbone's features must have one form for each layer.",
            )

    def append(self, names: Sequence[bytes], records: Records, layout: Layout, stamp: Stamp) -> None:
        """Add the records of some views.

        Raises:
            OSError: They cannot be written, and nothing of them is left.
        """
        if self._own is None or not self._own.is_there:
            self.path.mkdir(parents=True, exist_ok=True)
            self._own = OwnSegment(self.path, self._rank)
        if self.layout is None or not (self.path / KEY).exists():
            self._write_key(layout)
        self._own.append(names, records, stamp)
        self._places |= self._own.fresh()

    def _write_key(self, layout: Layout) -> None:
        partial = self.path / f"{self._rank}-{os.getpid()}.tmp"
        partial.write_text(json.dumps({"key": self._key, "layout": asdict(layout)}, indent=1) + "\n")
        partial.replace(self.path / KEY)
        self.layout = layout


def _layout(path: Path) -> Layout | None:
    try:
        return Layout.from_json(json.loads(path.read_text())["layout"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
