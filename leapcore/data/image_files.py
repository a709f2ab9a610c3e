"""All images below a folder, labelled or not, as a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from torch.utils.data import Dataset

from leapcore.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ImageFiles(Dataset[Any]):
    """Yields (a file's bytes, label), in the order of the paths; hidden files and folders are left out.

    Args:
        root: The folder; links in it are followed.

    Attributes:
        paths: Relative to the folder.
        classes: The folders that images lie in, which are their labels; empty if all lie in ``root``.

    Raises:
        DataError: There is no image.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.paths = sorted(_images_below(root))
        if not self.paths:
            raise DataError(
                f"folder '{root}' holds no images", f"They are known by their suffix: {', '.join(SUFFIXES)}."
            )
        self._folders = [PurePath(path).parent.as_posix() for path in self.paths]
        self.classes = sorted({*self._folders} - {"."})
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        return (self._root / self.paths[index]).read_bytes(), self._labels.get(self._folders[index], -1)

    def filename(self, index: int, absolute: bool = False) -> str:
        """An image's path below the folder, in characters that every file format can hold."""
        return os.fsencode(self.paths[index]).decode("utf-8", "backslashreplace")


def _images_below(root: Path) -> Iterator[str]:
    """Paths relative to a folder; a link to a folder that it lies in is not followed again."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file():
                yield path.relative_to(root).as_posix()
