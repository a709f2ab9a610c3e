"""A teacher's features of one image as a record: the bytes of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from safetensors.torch import load, save

from leapcore.core.features import LayerFeatures
from leapcore.core.matching import TeacherFeatures


def encode(features: TeacherFeatures) -> Iterator[bytes]:
    """A record for each image, all of one size."""
    layers = _by_name(features)
    grids = json.dumps({name: layer.grid for name, layer in layers.items()})
    tensors = {f"{name}.tokens": layer.tokens.cpu() for name, layer in layers.items()}
    for name, layer in layers.items():
        if layer.prefix_tokens is not None:
            tensors[f"{name}.prefix_tokens"] = layer.prefix_tokens.cpu()
    for image in zip(*(tensor.split(1) for tensor in tensors.values()), strict=True):
        # Copies, since safetensors takes no two tensors that share memory.
        copies = [tensor.clone(memory_format=torch.contiguous_format) for tensor in image]
        yield save(dict(zip(tensors, copies, strict=True)), {"grids": grids})


def decode(record: bytes) -> TeacherFeatures:
    """The features of an image (B = 1), bit for bit, on the CPU."""
    tensors = load(record)
    layers = {
        name: LayerFeatures(
            tensors[f"{name}.tokens"], grid and tuple(grid), tensors.get(f"{name}.prefix_tokens")
        )
        for name, grid in json.loads(header(record)["__metadata__"]["grids"]).items()
    }
    embedding = layers.pop("embedding", None)
    return TeacherFeatures(list(layers.values()), embedding)


def header(record: bytes) -> dict[str, Any]:
    """What a record says of its tensors: types, shapes, grids. It is the same for every image."""
    length = int.from_bytes(record[:8], "little")
    return dict(json.loads(record[8 : 8 + length]))


def bytes_per_image(features: TeacherFeatures) -> int:
    """Bytes of an image's features; its record has about 300 more."""
    return sum(tensor[:1].nbytes for layer in _by_name(features).values() for tensor in layer.tensors)


def _by_name(features: TeacherFeatures) -> dict[str, LayerFeatures]:
    layers = {str(number): layer for number, layer in enumerate(features.layers)}
    return layers if features.embedding is None else layers | {"embedding": features.embedding}
