"""How a teacher's features are normalised before the student learns them."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from leapcore.core.features import LayerFeatures
from leapcore.core.objective import TargetNormName
from leapcore.core.provider import LayerFeatureProvider

TargetNorm = Callable[[LayerFeatureProvider, LayerFeatures, int], LayerFeatures]
"""``norm(teacher, raw features, index of the layer) -> features`` that the student learns from."""


def own(teacher: LayerFeatureProvider, features: LayerFeatures, layer: int) -> LayerFeatures:
    """The backbone's own final norm where it fits, else nothing."""
    return teacher.finalize(features, layer)


def final(teacher: LayerFeatureProvider, features: LayerFeatures, layer: int) -> LayerFeatures:
    """The teacher's own final norm (LEAP); where it has none of this width, :func:`parameter_free`."""
    finalized = teacher.finalize(features, layer)
    return parameter_free(teacher, features, layer) if finalized is features else finalized


def parameter_free(teacher: LayerFeatureProvider, features: LayerFeatures, layer: int) -> LayerFeatures:
    """Each token to mean 0 and variance 1 over its channels (B, N, C)."""
    return features.map(_standardised)


def raw(teacher: LayerFeatureProvider, features: LayerFeatures, layer: int) -> LayerFeatures:
    """As they are: large channels and deep layers then weigh more in the loss."""
    return features


TARGET_NORMS: dict[TargetNormName, TargetNorm] = {
    "final": final,
    "parameter-free": parameter_free,
    "raw": raw,
}


def _standardised(tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
