"""The records of one key on disk: a file for each batch that was computed, written whole and never changed.

A file's first line is a checksum and JSON: run and step that computed it, the records' form and size, and of
each record the digest of its view and its checksum. The records follow. No file has two writers or a lock.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from leapcore.cache.encoding import Form, Records
from leapcore.files import write_whole

logger = logging.getLogger(__name__)
BATCH, KEY = ".batch", "key.json"


class Stamp(NamedTuple):
    """When something was computed: the number of a run that no other run has, and its finished steps."""

    run: int
    step: int


class Place(NamedTuple):
    """Where a record is, and what it must be."""

    path: Path
    start: int
    size: int
    checksum: int
    stamp: Stamp


class RecordStore:
    """All records of one key, by the digest of their view.

    Args:
        folder: Where they are; it need not be there yet.
        key: What they belong to.
        rank: Of this process.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], rank: int) -> None:
        self.folder, self._key, self._rank = folder, key, rank
        self.form: Form | None = None  # of all records
        self._places: dict[bytes, Place] = {}
        self._known = set[Path]()
        self._warned = False
        self.refresh()

    def refresh(self) -> None:
        """Note that it is used, and learn what other processes have written since."""
        with suppress(OSError):
            os.utime(self.folder / KEY)
        with suppress(OSError):
            for path in sorted(set(self.folder.glob(f"*{BATCH}")) - self._known):  # the newest counts
                self._learn(path)

    def _learn(self, path: Path) -> None:
        with suppress(OSError):  # deleted in this moment
            form, places = _contents(path)
            self.form = self.form or form
            self._places |= places if form == self.form else {}
        self._known.add(path)

    def read(self, view: bytes) -> tuple[bytes, Stamp] | None:
        """A view's record and when it was computed; None if it is not there, or not as it was written."""
        if (place := self._places.get(view)) is None:
            return None
        with suppress(OSError), place.path.open("rb", buffering=0) as file:
            record = os.pread(file.fileno(), place.size, place.start)
            if zlib.crc32(record) == place.checksum:
                return record, place.stamp
        del self._places[view]
        if place.path.exists() and not self._warned:
            self._warned, folder = True, self.folder
            logger.warning("the cache in '%s' is damaged; what cannot be read is computed again", folder)
        return None

    def append(self, batch: bytes) -> None:
        """Write a batch, which :func:`as_batch` made.

        Raises:
            OSError: It cannot be written, and nothing of it is left.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / KEY).exists():
            write_whole(self.folder / KEY, json.dumps(self._key, indent=1, default=str) + "\n")
        path = self.folder / f"{time.time_ns():x}-{self._rank}-{os.getpid()}{BATCH}"
        write_whole(path, batch)
        self._learn(path)


def as_batch(views: Sequence[bytes], records: Records, form: Form, stamp: Stamp) -> bytes:
    """The bytes of a batch's file."""
    checksums = {view.hex(): zlib.crc32(record) for view, record in zip(views, records, strict=True)}
    head = json.dumps([*stamp, form, records.shape[1], checksums]).encode() + b"\n"
    return b"".join([b"%08x" % zlib.crc32(head), head, records.data])


def _contents(path: Path) -> tuple[Form | None, dict[bytes, Place]]:
    """What is in a batch's file: the records' form, and by view where they are. Nothing if it is damaged."""
    with path.open("rb") as file:
        line = file.readline()
    if line[:8] != b"%08x" % zlib.crc32(line[8:]):
        logger.warning("the cache's file '%s' is damaged; what it holds is computed again", path)
        return None, {}
    run, step, form, size, checksums = json.loads(line[8:])
    places, stamp = dict[bytes, Place](), Stamp(run, step)
    for number, (view, checksum) in enumerate(checksums.items()):
        places[bytes.fromhex(view)] = Place(path, len(line) + number * size, size, checksum, stamp)
    return form, places
