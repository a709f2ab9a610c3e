"""Keeps all of a cache's folders below their limit together, and a full disk from ending a run."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from leapcore.cache.segments import FEATURES, INDEX
from leapcore.cache.shelf import KEY

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PARTS = 8  # of what is left, after which all is measured again: other runs may write there, too
_KEY_SIZE = 8192  # bytes at most, of a key that is written without being asked for
_SHELF = re.compile(r"[0-9a-f]{32}")
_OURS = (FEATURES, INDEX, KEY, ".tmp")


class _Kept(NamedTuple):
    """A key's folder: when it was last used, where it is, how many bytes it holds."""

    used: float
    path: Path
    size: int


class Budget:
    """What may still be written.

    Args:
        root: The folder of all keys' folders; what else is in there is left alone.
        limit: Most bytes that they may hold.
        processes: How many of this run write there, each as much as any other.

    Attributes:
        spent: Whether nothing can be written until a target changes.
    """

    def __init__(self, root: Path, limit: int, processes: int) -> None:
        self.root, self.limit, self._processes = root, limit, processes
        self.spent = False
        self._room = 0  # of this process, until all is measured again
        self._in_use: dict[str, Path] = {}
        self._warned = False

    def use(self, owner: str, path: Path) -> None:
        """From now on a teacher uses this folder, and no longer the one before."""
        self._in_use[owner] = path
        self.spent, self._room = False, 0

    def write(self, size: int, act: Callable[[], None]) -> None:
        """Write if there is room, or room can be made by deleting what this run does not use now.

        Args:
            size: Bytes.
            act: Writes them, or raises an OSError and leaves nothing of them.
        """
        while not self.spent:
            try:
                if self._take(size):
                    act()
                    return
                problem, full = f"it has reached cache.limit_gb: {self.limit / 1e9:g}", True
            except OSError as error:
                problem, full = str(error), error.errno in _FULL
            if not (full and self._drop_oldest()):
                self._stop(problem)

    def _take(self, size: int) -> bool:
        if size > self._room:
            held = sum(kept.size for kept in self._kept()) + _KEY_SIZE
            mine = (self.limit - held) // self._processes
            self._room = max(size, mine // _PARTS) if size <= mine else 0
        self._room -= size
        return self._room >= 0

    def _stop(self, problem: str) -> None:
        self.spent = True
        if not self._warned:
            self._warned = True
            logger.warning("the cache in '%s' takes no more: %s; the run goes on", self.root, problem)

    def _drop_oldest(self) -> bool:
        """Delete the folder that was unused longest; False if there is none."""
        in_use = self._in_use.values()
        spare = [kept for kept in self._kept() if kept.size and kept.path not in in_use]
        if not spare:
            return False
        _, path, size = min(spare)
        with suppress(OSError):  # another process may do the same, or write a new file there
            for file in _files(path):
                file.unlink(missing_ok=True)
            path.rmdir()
        self._room = 0
        return sum(map(_size, _files(path))) < size

    def _kept(self) -> Iterator[_Kept]:
        with suppress(OSError):
            for path in self.root.iterdir():
                if _SHELF.fullmatch(path.name) and path.is_dir():
                    yield _Kept(_time(path / KEY), path, sum(map(_size, _files(path))))


def _files(folder: Path) -> list[Path]:
    """A key's files in its folder, and no others."""
    with suppress(OSError):
        return [folder / name for name in os.listdir(folder) if name.endswith(_OURS)]
    return []


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _time(path: Path) -> float:
    """When it was last touched; a folder whose key is gone is the oldest."""
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0
