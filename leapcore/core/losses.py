"""Losses between projected student features and teacher features of the same shape (..., C)."""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def sigreg(vectors: Tensor) -> Tensor:
    """Weak SIGReg: how far the covariance of vectors is from the identity, in the Frobenius norm.

    Keeps features from collapsing or repeating each other, without asking for a distribution's shape.

    Args:
        vectors: (B, C), at least two.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        centred = vectors.float() - vectors.float().mean(0)
        covariance = centred.T @ centred / (len(centred) - 1)
        distance: Tensor = torch.linalg.matrix_norm(covariance - torch.eye(len(covariance)).to(covariance))
        return distance
