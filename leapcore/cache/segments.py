"""Files of records that grow at their end, each written by one process and read by any.

A segment is two files. ``*.features`` holds records of fixed size. ``*.index`` holds a block per batch,
written once the batch's records are: which run wrote it in which step, and of each record the digest of its
view and its own checksum. A block has a checksum too, so whatever a kill leaves half written, a batch is
there as a whole or not at all.
"""

from __future__ import annotations

import os
import secrets
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from leapcore.cache.layout import Records

FEATURES, INDEX = ".features", ".index"

_HEAD = struct.Struct("<IIQQ")  # checksum of all that follows, number of records, run, step
_ENTRY = struct.Struct("<16sI")  # digest of the view, checksum of the record
_CHECKSUM = 4  # bytes


class Stamp(NamedTuple):
    """Which step something was computed in.

    Attributes:
        run: A number that a run, however often resumed, shares with no other.
        step: Finished steps.
    """

    run: int
    step: int


class Place(NamedTuple):
    """Where a record is.

    Attributes:
        segment: Its files.
        number: How many records come before it.
        checksum: CRC-32 of the record.
        stamp: When it was computed.
    """

    segment: Segment
    number: int
    checksum: int
    stamp: Stamp

    def read(self, size: int) -> bytes | None:
        """The record, of that many bytes; None if it is not what was written."""
        with suppress(OSError):
            record = os.pread(self.segment.features, size, self.number * size)
            if len(record) == size and zlib.crc32(record) == self.checksum:
                return record
        return None


class Segment:
    """A segment to read, of this process or of another.

    Args:
        stem: Path of its files, without their endings.

    Attributes:
        features: Descriptor of the file of records; open as long as this object lives, deleted or not.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, stem: Path, flags: int = os.O_RDONLY) -> None:
        self.features = _opened(self, _path(stem, FEATURES), flags)
        self._index = _opened(self, _path(stem, INDEX), flags)
        self._records = 0  # in whole blocks
        self._indexed = 0  # their bytes in the index

    def fresh(self) -> Iterator[tuple[bytes, Place]]:
        """The records that came since the last call, by the digests of their views."""
        grown = os.fstat(self._index).st_size - self._indexed
        for stamp, entries, length in _blocks(os.pread(self._index, max(grown, 0), self._indexed)):
            self._indexed += length
            for digest, checksum in entries:
                yield digest, Place(self, self._records, checksum, stamp)
                self._records += 1


class OwnSegment(Segment):
    """A new segment that this process writes.

    Args:
        folder: Where.
        rank: Of this process, part of the name.

    Attributes:
        stem: Path of its files, without their endings.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.stem = folder / f"{rank}-{os.getpid()}-{secrets.token_hex(4)}"
        super().__init__(self.stem, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    @property
    def is_there(self) -> bool:
        """Whether others see it: nobody has deleted it."""
        return _path(self.stem, INDEX).exists()

    def append(self, names: Sequence[bytes], records: Records, stamp: Stamp) -> None:
        """Write a batch; :meth:`fresh` then tells its places.

        Raises:
            OSError: It could not be written, and nothing of it is left.
        """
        written = self._records * records.shape[1]
        try:
            _write(self.features, records.data.cast("B"), written)
            _write(self._index, memoryview(_block(names, records, stamp)), self._indexed)
        except OSError:
            os.ftruncate(self.features, written)
            os.ftruncate(self._index, self._indexed)
            raise


def block_size(count: int) -> int:
    """Bytes in the index of so many records that are written together."""
    return _HEAD.size + count * _ENTRY.size


def _path(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _opened(owner: Segment, path: Path, flags: int) -> int:
    file = os.open(path, flags | os.O_CLOEXEC, 0o666)
    weakref.finalize(owner, os.close, file)
    return file


def _write(file: int, left: memoryview, offset: int) -> None:
    while left:  # a single call writes 2 GiB at most
        done = os.pwrite(file, left, offset)
        left, offset = left[done:], offset + done


def _block(names: Sequence[bytes], records: Records, stamp: Stamp) -> bytes:
    entries = b"".join(
        _ENTRY.pack(name, zlib.crc32(record)) for name, record in zip(names, records, strict=True)
    )
    block = _HEAD.pack(0, len(names), *stamp) + entries
    return struct.pack("<I", zlib.crc32(block[_CHECKSUM:])) + block[_CHECKSUM:]


def _blocks(data: bytes) -> Iterator[tuple[Stamp, Iterator[tuple[bytes, int]], int]]:
    """Whole blocks: stamp, entries, bytes. What comes after a torn one cannot be placed and is left out."""
    start = 0
    while start + _HEAD.size <= len(data):
        checksum, count, run, step = _HEAD.unpack_from(data, start)
        body = start + _HEAD.size
        end = body + count * _ENTRY.size
        if end > len(data) or zlib.crc32(data[start + _CHECKSUM : end]) != checksum:
            return
        yield Stamp(run, step), _ENTRY.iter_unpack(data[body:end]), end - start
        start = end
