"""How alike each layer of the student is to each layer of the teachers, on a fixed sample of images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from torch import Tensor

from leapcore.core.distiller import student_weights
from leapcore.core.features import LayerFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.evaluation.cka_map import cka_map
from leapcore.evaluation.extract import evaluating, own_precision
from leapcore.plugins.dispatch import Events
from leapcore.plugins.events import CkaMap
from leapcore.train.parts import RunParts
from leapcore.train.teacher import Teacher
from leapcore.train.zero_state import whole_weights

BATCH = 32  # images whose features are in memory at once
MEMORY = 2**29  # bytes for the products of all pairs of layers


def measure_cka_maps(parts: RunParts, step: int, events: Events) -> None:
    """Compute the maps and report them. All processes call it; the first one computes.

    The run goes on as if nothing had been: nothing is drawn, recorded or trained.

    Args:
        parts: The run.
        step: Finished steps.
        events: Receives the maps.
    """
    student = whole_student(parts)
    maps = parts.ranks.on_all(lambda: _maps(parts, student) if parts.ranks.is_first else [])
    if maps:
        events.cka_map(step, maps)


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
                grid=teacher.match.grid,
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
    layers = islice(teacher.compute.each_layer(pixels), start, stop)
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
    return max(1, MEMORY // (4 * values))


def _names(provider: LayerFeatureProvider) -> list[str]:
    return [layer.name for layer in provider.layers]


def whole_student(parts: RunParts) -> LayerFeatureProvider:
    """The student with whole weights, to evaluate or export. All processes call it; the first one uses it."""
    if parts.spec.engine.zero_stage < 3:
        return parts.student
    weights = whole_weights(parts.engine)
    if parts.student_copy is None:
        return parts.student
    parts.student_copy.load_state_dict(student_weights(weights))
    return parts.student_copy.to(parts.device)
