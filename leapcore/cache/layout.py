"""How a teacher's features of one image become bytes of fixed length, and features again."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leapcore.core.features import LayerFeatures
from leapcore.core.matching import TeacherFeatures

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TYPES = {str(kind).split(".")[1]: kind for kind in _FLOATS}

Records = NDArray[np.uint8]  # (images, bytes of each)


@dataclass(frozen=True)
class Layout:
    """The form of :class:`TeacherFeatures`, without the number of images.

    Attributes:
        grids: Of each layer, then of the patch embedding if there is one.
        tensors: Of each of those, type and shape per image of the tokens and, if there are any, the prefix
            tokens.
        embedding: Whether the last of them is the patch embedding.
    """

    grids: list[tuple[int, int] | None]
    tensors: list[list[tuple[str, tuple[int, ...]]]]
    embedding: bool

    @classmethod
    def of(cls, features: TeacherFeatures) -> Layout:
        """The form that these have."""
        parts = _parts(features)
        tensors = [[(str(t.dtype).split(".")[1], tuple(t.shape[1:])) for t in part.tensors] for part in parts]
        return cls([part.grid for part in parts], tensors, features.embedding is not None)

    @classmethod
    def from_json(cls, said: Any) -> Layout:
        """Read what ``dataclasses.asdict`` and JSON made of it.

        Raises:
            KeyError: Something is missing, or a type is none of a feature's.
            TypeError: It is something else.
            ValueError: The same.
        """
        grids = [None if grid is None else (int(grid[0]), int(grid[1])) for grid in said["grids"]]
        tensors = [[(str(kind), tuple(map(int, shape))) for kind, shape in part] for part in said["tensors"]]
        layout = cls(grids, tensors, bool(said["embedding"]))
        if layout.size <= 0 or len(grids) != len(tensors):
            raise ValueError("no layout of features")
        return layout

    @property
    def size(self) -> int:
        """Bytes per image."""
        return sum(_bytes(*tensor) for part in self.tensors for tensor in part)

    def features(self, records: Records, device: torch.device) -> TeacherFeatures:
        """The features that :func:`as_records` was given, bit for bit."""
        tensors, start = list[list[Tensor]](), 0
        for part in self.tensors:
            tensors.append([])
            for kind, shape in part:
                end = start + _bytes(kind, shape)
                tensors[-1].append(_tensor(records[:, start:end], kind, shape).to(device))
                start = end
        parts = [
            LayerFeatures(tokens, grid, *prefix)
            for grid, (tokens, *prefix) in zip(self.grids, tensors, strict=True)
        ]
        return TeacherFeatures(parts[:-1], parts[-1]) if self.embedding else TeacherFeatures(parts)


def as_records(features: TeacherFeatures) -> Records:
    """The bytes of each image's features."""
    tensors = [tensor for part in _parts(features) for tensor in part.tensors]
    rows = [tensor.cpu().contiguous().flatten(1).view(torch.uint8) for tensor in tensors]
    records: Records = torch.cat(rows, 1).numpy()
    return records


def _parts(features: TeacherFeatures) -> list[LayerFeatures]:
    return [*features.layers, *([] if features.embedding is None else [features.embedding])]


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * _TYPES[kind].itemsize


def _tensor(rows: Records, kind: str, shape: tuple[int, ...]) -> Tensor:
    flat = torch.from_numpy(np.ascontiguousarray(rows)).view(_TYPES[kind])
    return flat.view(len(rows), *shape)
