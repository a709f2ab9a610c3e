"""How alike each layer of the student is to each layer of the teachers, on a fixed sample of images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor

from leapcore.core.cka_map import cka_map
from leapcore.core.features import LayerFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.evaluation.extract import evaluating, own_precision
from leapcore.plugins.events import CkaMap
from leapcore.train.evaluate import current_student
from leapcore.train.setup import RunParts
from leapcore.train.teacher import Teacher

BATCH = 32  # images whose features are in memory at once
ROOM = 2**29  # bytes for the products of all pairs of layers


def tell_cka_maps(parts: RunParts, step: int, hooks: Any) -> None:
    """Compute the maps and tell the listeners. All processes call it; the first one does it.

    The run goes on as if nothing had been: nothing is drawn, booked or trained.

    Args:
        parts: The run.
        step: Finished steps.
        hooks: Tells the listeners.
    """
    student = current_student(parts)
    maps = parts.ranks.together(lambda: _maps(parts, student) if parts.ranks.first else [])
    if maps:
        hooks.leapcore_cka_map(step=step, maps=maps)


def _maps(parts: RunParts, student: LayerFeatureProvider) -> list[CkaMap]:
    """A map for each teacher; none where no image can be read."""
    sample = parts.map_sample
    return [_map(parts, student, teacher, sample) for teacher in parts.teachers] if len(sample) else []


def _map(parts: RunParts, student: LayerFeatureProvider, teacher: Teacher, sample: Tensor) -> CkaMap:
    """One teacher's map, in parts of as many of its layers as there is room for."""
    depth, at_once = len(teacher.provider.layers), _columns_at_once(student, teacher.provider)
    rows: list[list[float]] = [[] for _ in student.layers]
    with evaluating(student), evaluating(teacher.provider):
        for start in range(0, depth, at_once):
            part = cka_map(
                partial(_student_layers, student, teacher),
                partial(_teacher_layers, teacher, start, start + at_once),
                (images.to(parts.device).float() / 255 for images in sample.split(BATCH)),
                upsample=teacher.match.upsample,
            )
            rows = [[*left, *right] for left, right in zip(rows, part, strict=True)]
    return CkaMap(teacher.name, len(sample), _names(student), _names(teacher.provider), rows)


def _student_layers(
    student: LayerFeatureProvider, teacher: Teacher, pixels: Tensor
) -> Iterator[LayerFeatures]:
    """Normalised as the teacher's are, so that like is held against like."""
    for layer, features in enumerate(student.iter_layers(student.prepare(pixels))):
        yield teacher.match.target_norm(student, features, layer)


def _teacher_layers(teacher: Teacher, start: int, stop: int, pixels: Tensor) -> Iterator[LayerFeatures]:
    layers = islice(teacher.each_layer(pixels), start, stop)
    for _ in range(start, stop):
        # Entered anew for each layer: between two of them, the surroundings have their own precision.
        with own_precision(teacher.provider, pixels.device):
            features = next(layers, None)
        if features is None:
            return
        yield features


def _columns_at_once(student: LayerFeatureProvider, teacher: LayerFeatureProvider) -> int:
    width = max(layer.channels for layer in teacher.layers)
    values = sum(layer.channels for layer in student.layers) * width + width**2
    return max(1, ROOM // (4 * values))


def _names(provider: LayerFeatureProvider) -> list[str]:
    return [layer.name for layer in provider.layers]
