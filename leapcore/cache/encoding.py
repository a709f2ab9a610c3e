"""A teacher's features of one image as a record, bytes of fixed size, and features again."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leapcore.core.features import LayerFeatures
from leapcore.core.matching import TeacherFeatures

Form = list[dict[str, Any]]  # grid, types and shapes of each layer, as JSON has them
Records = NDArray[np.uint8]  # (B, bytes)


def form_of(features: TeacherFeatures) -> Form:
    """What is the same for all images."""
    return [
        {
            "grid": layer.grid and list(layer.grid),
            "tensors": [[str(t.dtype).removeprefix("torch."), *t.shape[1:]] for t in layer.tensors],
            "embedding": layer is features.embedding,
        }
        for layer in _layers(features)
    ]


def encode(features: TeacherFeatures) -> Records:
    """The record of each image."""
    tensors = [tensor.cpu().contiguous() for layer in _layers(features) for tensor in layer.tensors]
    return np.concatenate([tensor.flatten(1).view(torch.uint8).numpy() for tensor in tensors], axis=1)


def decode(form: Form, records: Iterable[bytes | Records], device: torch.device) -> TeacherFeatures:
    """The features that were encoded, bit for bit, of the images whose records these are."""
    rows = [np.frombuffer(record, np.uint8) for record in records]
    layers, start = list[LayerFeatures](), 0
    for layer in form:
        tensors = []
        for dtype, *shape in layer["tensors"]:
            end = start + prod(shape) * getattr(torch, dtype).itemsize
            columns = torch.from_numpy(np.stack([row[start:end] for row in rows])).to(device)
            tensors.append(columns.view(getattr(torch, dtype)).view(-1, *shape))
            start = end
        layers.append(LayerFeatures(tensors[0], layer["grid"] and tuple(layer["grid"]), *tensors[1:]))
    return TeacherFeatures(layers[:-1], layers[-1]) if form[-1]["embedding"] else TeacherFeatures(layers)


def record_size(features: TeacherFeatures) -> int:
    """Bytes of a record."""
    return sum(tensor[:1].nbytes for layer in _layers(features) for tensor in layer.tensors)


def _layers(features: TeacherFeatures) -> list[LayerFeatures]:
    """The layers and then, if there is one, the patch embedding."""
    return [*features.layers, *([features.embedding] if features.embedding else [])]
