"""Losses between projected student features and teacher features of the same shape (..., C)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureLoss = Callable[[Tensor, Tensor], Tensor]
"""``loss(projected, target) -> scalar``, both of shape (B, N, C) or (B, C)."""


def mse(projected: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all elements, without normalisation (LEAP).

    Example:
        >>> mse(torch.ones(2, 16, 8), torch.zeros(2, 16, 8))
        tensor(1.)
    """
    return F.mse_loss(projected, target)


def cosine(projected: Tensor, target: Tensor) -> Tensor:
    """One minus the mean cosine similarity along the channels.

    Example:
        >>> tokens = torch.ones(2, 16, 8)
        >>> cosine(3 * tokens, tokens), cosine(-tokens, tokens)
        (tensor(0.), tensor(2.))
    """
    return 1 - F.cosine_similarity(projected, target, dim=-1).mean()


def sigreg(vectors: Tensor) -> Tensor:
    """Weak SIGReg: how far the covariance of vectors is from the identity, in the Frobenius norm.

    With the mean m of v_1 to v_B: ``|| 1/(B-1) sum_i (v_i - m)(v_i - m)^T - I ||_F``, of (C, C) matrices.
    Keeps features from collapsing or repeating each other, without asking for a distribution's shape.

    Args:
        vectors: (B, C), at least two.

    Example:
        >>> sigreg(torch.zeros(10, 4))  # collapsed: the norm of the 4 x 4 identity
        tensor(2.)
        >>> white = torch.randn(10_000, 4, generator=torch.Generator().manual_seed(0))
        >>> sigreg(white) < 0.1
        tensor(True)
    """
    with torch.autocast(vectors.device.type, enabled=False):
        centred = vectors.float() - vectors.float().mean(0)
        covariance = centred.T @ centred / (len(centred) - 1)
        distance: Tensor = torch.linalg.matrix_norm(covariance - torch.eye(len(covariance)).to(covariance))
        return distance
