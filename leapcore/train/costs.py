"""What a step of the student costs: its backbone, and the heads that a target layer asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from leapcore.core.distiller import Distiller
from leapcore.core.features import LayerFeatures
from leapcore.core.flops import FlopsLedger, count_macs
from leapcore.core.layer_check import layer_shapes
from leapcore.core.matching import Match, StudentFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.train.teacher import Teacher


def empty_ledger(teachers: Sequence[Teacher], student_macs: int) -> FlopsLedger:
    """A ledger before the first step; its baseline is the deepest target of each teacher.

    Args:
        teachers: Of the run.
        student_macs: MACs per image of the student without projectors.
    """
    heads = sum(teacher.head_macs[-1] for teacher in teachers)
    return FlopsLedger(sum(teacher.baseline_macs for teacher in teachers), student_macs + heads)


def student_macs(distiller: Distiller) -> int:
    """MACs per image of the student's forward pass and of its patch embedding's heads, without projectors."""
    return count_macs(_StudentSide(distiller), distiller.student.example_input())


def embedding_macs(provider: LayerFeatureProvider) -> int:
    """MACs per image of a patch embedding alone."""
    return count_macs(_Embedding(provider), provider.example_input())


def head_macs(match: Match, student: LayerFeatureProvider, teacher: LayerFeatureProvider) -> list[int]:
    """MACs per image of projecting the student's features, for each layer that may be the target.

    They differ where the teacher's width does, or the grid on which both are compared.
    """
    ours = StudentFeatures(dict(enumerate(layer_shapes(student))))
    theirs, known, macs = layer_shapes(teacher), dict[tuple[object, ...], int](), []
    for layer in range(match.target.choices):
        targets = [theirs[index] for index in match.teacher_layers(layer)]
        key = tuple((target.channels, target.grid, target.tokens.shape) for target in targets)
        if key not in known:
            projection = _Projection(match, ours, targets)
            known[key] = count_macs(projection, *projection.inputs())
        macs.append(known[key])
    return macs


class _StudentSide(nn.Module):
    """The student, its last layer finalized, and its side of the losses between patch embeddings."""

    def __init__(self, distiller: Distiller) -> None:
        super().__init__()
        self.distiller = distiller

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.distiller.student_features(images)
        results = [tensor for layer in features.layers.values() for tensor in layer.tensors]
        for match in self.distiller.matches:
            if match.embedding and features.embedding:
                loss: Any = match.embedding
                results += features.embedding.map(loss.head).map(loss.norm).tensors
        return results


class _Embedding(nn.Module):
    """A provider's patch embedding alone."""

    def __init__(self, provider: LayerFeatureProvider) -> None:
        super().__init__()
        self.provider = provider

    def forward(self, images: Tensor) -> Tensor:
        return self.provider.embed(images).tokens


class _Projection(nn.Module):
    """The projectors of one target; the student's tensors come as inputs, so that the tracer sees them."""

    def __init__(self, match: Match, student: StudentFeatures, teacher: list[LayerFeatures]) -> None:
        super().__init__()
        self.match = match
        self.student = {layer: student.layers[layer] for layer in set(match.student_layers)}
        self.teacher = teacher

    def inputs(self) -> list[Tensor]:
        return [tensor for features in self.student.values() for tensor in features.tensors]

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        given, layers = iter(tensors), {}
        for layer, features in self.student.items():
            tokens = next(given)
            prefix = None if features.prefix_tokens is None else next(given)
            layers[layer] = replace(features, tokens=tokens, prefix_tokens=prefix)
        pairs = self.match.projected(StudentFeatures(layers), self.teacher)
        return [tensor for ours, _ in pairs for tensor in ours.tensors]
