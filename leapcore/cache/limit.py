"""The limit of all keys' folders together; neither it nor a full disk ends a run."""

from __future__ import annotations

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from leapcore.cache.records import BATCH, KEY
from leapcore.files import PARTIAL

logger = logging.getLogger(__name__)


class DiskLimit:
    """What may still be written.

    Args:
        root: The folder of all keys' folders; what else is in there is left alone.
        size: Most bytes that they may hold.
        processes: How many of this run write there, each as much as any other.
    """

    def __init__(self, root: Path, size: int, processes: int) -> None:
        self.root, self._size, self._processes = root, size, processes
        self.reached = self._warned = False  # reached: nothing can be written until a target changes
        self._room = 0  # of this process, until all is measured again
        self._in_use: dict[str, Path] = {}

    def use(self, owner: str, folder: Path) -> None:
        """From now on a teacher uses this folder, and no longer the one before."""
        self._in_use[owner] = folder
        self.reached, self._room = False, 0

    def write(self, size: int, act: Callable[[], None]) -> None:
        """Let ``act`` write so many bytes, or raise an OSError and leave none, if there is room or can be."""
        while not self.reached:
            try:
                if self._reserve(size):
                    act()
                    return
                cause, full = f"it has reached cache.limit_gb: {self._size / 1e9:g}", True
            except OSError as error:
                cause, full = str(error), error.errno in (errno.ENOSPC, errno.EDQUOT)
            self.reached = not (full and self._drop_least_recent())
        if not self._warned:
            self._warned = True
            logger.warning("the cache in '%s' takes no more: %s; the run goes on", self.root, cause)

    def _reserve(self, size: int) -> bool:
        if size > self._room:
            held = sum(file.st_size for files in self._folders().values() for file in files.values())
            share = (self._size - held - 8192) // self._processes  # a key's file is smaller than that
            self._room = max(size, share // 8) if size <= share else 0  # no more: others write there, too
        self._room -= size
        return self._room >= 0

    def _drop_least_recent(self) -> bool:
        """Delete the folder whose key was unused longest, or is gone; False if none can be."""
        self._room, in_use = 0, self._in_use.values()
        unused = {folder: files for folder, files in self._folders().items() if folder not in in_use}
        if not unused:
            return False
        oldest = min(unused, key=lambda folder: getattr(unused[folder].get(folder / KEY), "st_mtime", 0.0))
        with suppress(OSError):  # another process may do the same, or write a new file there
            for file in unused[oldest]:
                file.unlink(missing_ok=True)
            oldest.rmdir()
        return not any(map(os.path.exists, unused[oldest]))

    def _folders(self) -> dict[Path, dict[Path, os.stat_result]]:
        """The cache's own files, by their folder."""
        folders = defaultdict[Path, dict[Path, os.stat_result]](dict)
        with suppress(OSError):
            for file in self.root.glob("[0-9a-f]" * 32 + "/*"):
                with suppress(OSError):  # deleted in this moment
                    if file.name.endswith((BATCH, KEY, PARTIAL)):
                        folders[file.parent][file] = file.stat()
        return folders
