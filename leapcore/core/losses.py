"""Losses between projected student features and teacher features of the same shape (..., C)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

FeatureLoss = Callable[[Tensor, Tensor], Tensor]
"""``loss(projected, target) -> scalar``, both of shape (B, N, C) or (B, C)."""


def mse(projected: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements, without normalisation (LEAP)."""
    return F.mse_loss(projected, target)


def cosine(projected: Tensor, target: Tensor) -> Tensor:
    """One minus the mean cosine similarity along the channels."""
    return 1 - F.cosine_similarity(projected, target, dim=-1).mean()
