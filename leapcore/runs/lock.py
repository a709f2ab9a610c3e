"""A lock on a folder that the system drops with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from leapcore.errors import OutputError
from leapcore.runs.names import LOCK

logger = logging.getLogger(__name__)

_FLOCK = "hhqqi"  # Linux's struct flock: type, whence, start, length, process
_own: set[Path] = set()  # the locks that this process holds; if it closed their files, it would lose them


def holder(folder: Path, *, trust_file: bool = True) -> str:
    """Which other process holds a folder's lock, such as ``process 7 on node03``; empty where none does.

    Whoever asks gets in nobody's way.

    Args:
        folder: The folder.
        trust_file: On a file system without locks: whether whoever left the file is taken to be alive.
    """
    path = folder / LOCK
    if path.resolve() in _own:
        return ""
    try:
        with path.open() as file:
            return (file.read().strip() or "another process") if _is_held(file, trust_file) else ""
    except OSError:
        return ""


def _is_held(file: TextIO, trust_file: bool) -> bool:
    try:
        if not sys.platform.startswith("linux"):  # whose struct is another
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(file, fcntl.F_GETLK, asked)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        return trust_file
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


class FolderLock:
    """Held from its making until :meth:`release`.

    A lock of this kind (POSIX, ``fcntl``) is not inherited by processes that are forked, so that data workers
    do not hold it longer than the run.

    Args:
        folder: What is locked; made if it is not there.

    Raises:
        OutputError: Another process holds it.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._file = self._path.open("a+")
            self._take()
            if self._is_there():
                break
            self._file.close()  # its last holder removed the file just before this one got it
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        _own.add(self._path.resolve())

    def _take(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise OutputError(
                f"output folder '{self._path.parent}' is in use by {holder}",
                "Wait until it has ended, or name another folder with --output.",
            ) from error
        except OSError as error:  # some network file systems have none
            logger.warning("%s cannot be locked (%s): start no second run in this folder", self._path, error)

    def _is_there(self) -> bool:
        """Whether the file that is locked is still the one that others see."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others in; folders that were made for this and are still empty are not left behind."""
        _own.discard(self._path.resolve())
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # which the first that is not empty raises
            for folder in self._made:
                folder.rmdir()
        self._file.close()
