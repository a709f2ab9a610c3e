"""Files of features, written row by row: Parquet, or NumPy's own."""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from leapcore.errors import OutputError

_ROWS_IN_GROUP = 4096  # of a Parquet file, and so at most in memory besides a batch


class FeatureRows(NamedTuple):
    """Features of some images.

    Attributes:
        paths: The images' files, or their numbers in the data source.
        labels: A text or a number each; None for images without labels.
        vectors: (n, C) in float32.
    """

    paths: Sequence[str]
    labels: Sequence[str] | Sequence[int] | None
    vectors: np.ndarray[Any, np.dtype[np.float32]]


class FeatureFile(ABC):
    """A file that appears under its name once it is whole; a context that removes the rest of a failure.

    Args:
        path: Where; an earlier file is replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.partial")

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._close()
            if kind is None:
                self._publish()
        finally:
            self._partial.unlink(missing_ok=True)

    @abstractmethod
    def write(self, rows: FeatureRows) -> None:
        """Add rows; there is at least one, and all calls give the same width and kind of labels."""

    @abstractmethod
    def _close(self) -> None:
        """Write what is left, and close what is open."""

    def _publish(self) -> None:
        self._partial.replace(self.path)


class _Parquet(FeatureFile):
    """Columns ``path``, ``label`` where there are labels, and ``vector``, a list of fixed size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._writer: Any = None
        self._tables: list[Any] = []

    def write(self, rows: FeatureRows) -> None:
        import pyarrow as pa

        columns: dict[str, Any] = {"path": pa.array(rows.paths, pa.string())}
        if rows.labels is not None:
            columns["label"] = pa.array(rows.labels)
        values = pa.array(np.ascontiguousarray(rows.vectors).reshape(-1), pa.float32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(values, rows.vectors.shape[1])
        self._tables.append(pa.table(columns))
        if sum(map(len, self._tables)) >= _ROWS_IN_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if self._tables:
            table = pa.concat_tables(self._tables)
            self._writer = self._writer or parquet.ParquetWriter(self._partial, table.schema)
            self._writer.write_table(table)
            self._tables = []

    def _close(self) -> None:
        self._flush()
        if self._writer:
            self._writer.close()


class _Npy(FeatureFile):
    """The vectors (n, C) alone; ``<name>.csv`` beside them has a line with path and label for each."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file: IO[bytes] = self._partial.open("wb")
        self._shape = (0, 0)
        self._paths: list[str] = []
        self._labels: list[str | int] = []

    def write(self, rows: FeatureRows) -> None:
        if not self._paths:
            self._write_header(rows.vectors.shape[1])
        self._file.write(np.ascontiguousarray(rows.vectors, "<f4").tobytes())
        self._paths.extend(rows.paths)
        self._labels.extend(rows.labels or ())
        self._shape = (len(self._paths), rows.vectors.shape[1])

    def _write_header(self, width: int) -> None:
        """NumPy leaves room in a header for more rows, so that it can be written again."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self._paths), width)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def _close(self) -> None:
        self._file.seek(0)
        self._write_header(self._shape[1])
        self._file.close()

    def _publish(self) -> None:
        with image_list(self.path).open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(["path", "label"] if self._labels else ["path"])
            lines.writerows(zip(self._paths, *([self._labels] if self._labels else []), strict=True))
        super()._publish()


class _Npz(_Npy):
    """The arrays ``vectors`` (n, C), ``paths`` and, where known, ``labels``; one file."""

    def _publish(self) -> None:
        arrays = {"paths": np.array(self._paths, dtype=np.str_)}
        if self._labels:
            arrays["labels"] = np.array(self._labels)
        whole = self._partial.with_suffix(".zip")
        try:
            with zipfile.ZipFile(whole, "w") as file:  # uncompressed, as numpy.savez writes it
                with (
                    self._partial.open("rb") as vectors,
                    file.open("vectors.npy", "w", force_zip64=True) as to,
                ):
                    shutil.copyfileobj(vectors, to)
                for name, array in arrays.items():
                    with file.open(f"{name}.npy", "w", force_zip64=True) as to:
                        np.lib.format.write_array(to, array, allow_pickle=False)
            os.replace(whole, self.path)
        finally:
            whole.unlink(missing_ok=True)


_WRITERS: dict[str, type[FeatureFile]] = {".parquet": _Parquet, ".npz": _Npz, ".npy": _Npy}


def image_list(path: Path) -> Path:
    """The file beside a ``.npy`` file that lists the images of its rows."""
    return path.with_suffix(".csv")


def check_feature_file(path: Path, *, overwrite: bool) -> None:
    """Check that features can be written to a path, before anything is computed.

    Raises:
        OutputError: Its suffix is unknown, a package is missing, its folder is, or it exists already.
    """
    if path.suffix not in _WRITERS:
        raise OutputError(
            f"'{path}': features cannot be written as '{path.suffix or path.name}'",
            f"Name a file that ends in {', '.join(_WRITERS)}.",
        )
    if path.suffix == ".parquet":
        _require_pyarrow()
    if not path.parent.is_dir():
        raise OutputError(f"folder '{path.parent}' does not exist", "Make it, or name another file with -o.")
    for file in (path, image_list(path)) if path.suffix == ".npy" else (path,):
        if file.is_dir() or (file.exists() and not overwrite):
            raise OutputError(
                f"'{file}' exists already", "Replace it with --overwrite, or name another file."
            )


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise OutputError(
            f"writing Parquet needs pyarrow: {error}",
            "Run: pip install pyarrow; or write .npz, which needs nothing.",
        ) from error


def open_feature_file(path: Path) -> FeatureFile:
    """The file in the format of its suffix, to be written in a ``with`` block."""
    return _WRITERS[path.suffix](path)
