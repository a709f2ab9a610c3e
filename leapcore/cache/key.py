"""Which cache belongs to a teacher: two keys that are alike stand for the same features of the same view."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from leapcore._version import __version__
from leapcore.core.matching import Match
from leapcore.core.provider import LayerFeatureProvider
from leapcore.models.digests import code_digest, structure_digest
from leapcore.spec import Spec

FORMAT = 2  # of the files; another one never finds them


def feature_key(
    name: str, provider: LayerFeatureProvider, match: Match, weights: str, spec: Spec, device: torch.device
) -> dict[str, Any]:
    """The key of a teacher's features, all but the layers that they are of.

    Args:
        name: The teacher's, in the spec.
        provider: Its backbone.
        match: The student's match with it.
        weights: A digest of its weights.
        spec: The run.
        device: What it is computed on; others round differently.
    """
    teacher = spec.each_teacher[name]
    return {
        "format": FORMAT,
        "leapcore": __version__,
        "backbone": teacher.backbone,
        "model": teacher.model,
        "options": teacher.options,
        "input": provider.image_input._asdict(),
        "weights": weights,
        "structure": structure_digest(provider),
        "code": code_digest([*_classes(provider), type(match), match.target_norm]),
        "target_norm": spec.objective.target_norm,
        "embedding": match.embedding is not None,
        "precision": spec.train.precision,
        "device": device.type,
    }


def _classes(provider: LayerFeatureProvider) -> Iterable[type]:
    """The classes of its modules, and theirs in turn."""
    return {base for part in provider.modules() for base in type(part).__mro__ if base is not object}
