"""Which cache belongs to a teacher: two keys that are alike stand for the same features of the same view."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from leapcore._version import __version__
from leapcore.core.provider import LayerFeatureProvider
from leapcore.engine.cache.budget import Budget
from leapcore.engine.cache.features import FeatureCache
from leapcore.engine.digests import code_digest, structure_digest
from leapcore.engine.ranks import Ranks
from leapcore.engine.teachers import Teacher
from leapcore.spec import Spec

logger = logging.getLogger(__name__)

FORMAT = 1  # of the files; another one never finds them


def give_caches(spec: Spec, teachers: Sequence[Teacher], ranks: Ranks, device: torch.device) -> None:
    """Let each teacher use the cache that the spec asks for, if it does."""
    if spec.cache.folder is None:
        return
    if spec.data.augment.views is None:
        logger.warning(
            "every epoch has views of its own, so the cache helps only another run with the same seed; "
            "set data.augment.views to let views come again in this one"
        )
    budget = Budget(Path(spec.cache.folder).expanduser(), int(spec.cache.limit_gb * 1e9), ranks.size)
    for teacher in teachers:
        teacher.cache = FeatureCache(teacher.name, feature_key(teacher, spec, device), budget, ranks.rank)


def feature_key(teacher: Teacher, spec: Spec, device: torch.device) -> dict[str, Any]:
    """The key of a teacher's features, all but the layers that they are of.

    Args:
        teacher: The teacher.
        spec: The run.
        device: What it is computed on; others round differently.
    """
    provider, wanted = teacher.provider, spec.each_teacher[teacher.name]
    return {
        "format": FORMAT,
        "leapcore": __version__,
        "backbone": wanted.backbone,
        "model": wanted.model,
        "options": wanted.options,
        "input": provider.image_input._asdict(),
        "weights": teacher.fingerprint,
        "structure": structure_digest(provider),
        "code": code_digest([*_classes(provider), type(teacher.match), teacher.match.target_norm]),
        "target_norm": spec.objective.target_norm,
        "embedding": teacher.match.embedding is not None,
        "precision": spec.train.precision,
        "device": device.type,
    }


def _classes(provider: LayerFeatureProvider) -> Iterable[type]:
    """The classes of its modules, and theirs in turn."""
    return {base for part in provider.modules() for base in type(part).__mro__ if base is not object}
