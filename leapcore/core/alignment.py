"""How alike two sets of features are: the scores that a difficulty scheduler listens to.

Every score is a 0-dimensional tensor on the features' device, in float32, without gradient. It is NaN
where the features hold a NaN or an infinity; schedulers skip such a score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

# Relative to the largest value, float32 rounding leaves about this much of a column that is constant.
_CONSTANT = 1e-6


class Parts(Protocol):
    """The processes that hold the rows of a batch among them."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of everybody's tensor."""

    def max(self, tensor: Tensor) -> Tensor:
        """The largest of everybody's tensor, element by element."""


class Whole:
    """All rows are here."""

    def sum(self, tensor: Tensor) -> Tensor:
        """What is here."""
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """What is here."""
        return tensor


WHOLE = Whole()


def _centred(features: Tensor, rows: int, parts: Parts) -> Tensor:
    """Centred features (N, D) of Frobenius norm 1, or all zero where the features do not vary."""
    x = features.detach().float()
    largest = x.abs().amax() if len(x) else x.new_zeros(())
    x = x / parts.max(largest).clamp_min(torch.finfo(x.dtype).tiny)
    x = x - parts.sum(x.sum(0)) / rows
    norm = parts.sum(torch.linalg.vector_norm(x).square()).sqrt()
    varies = norm > _CONSTANT * (rows * x.shape[1]) ** 0.5
    # A NaN norm compares false: it must reach the score, not become "does not vary".
    return torch.where(varies | norm.isnan(), x / norm, torch.zeros_like(x))


def _cross(x: Tensor, y: Tensor, parts: Parts) -> Tensor:
    """``||X^T Y||_F^2``, through whichever product is cheaper: features, or samples where all are here."""
    if parts is WHOLE and x.shape[0] < min(x.shape[1], y.shape[1]):
        return ((x @ x.T) * (y @ y.T)).sum()
    return parts.sum(x.T @ y).square().sum()


def _unbiased_cross(x: Tensor, y: Tensor, parts: Parts, n: int) -> Tensor:
    """The debiased estimate of the same (Song et al. 2012, eq. 5), without its constant factor."""
    p, q = x.square().sum(1), y.square().sum(1)
    same, all_p, all_q = parts.sum(torch.stack([(p * q).sum(), p.sum(), q.sum()]))
    correction: Tensor = all_p * all_q / ((n - 1) * (n - 2)) - same * (1 + 2 / (n - 2))
    return _cross(x, y, parts) + correction


def linear_cka(x: Tensor, y: Tensor, *, unbiased: bool = False, parts: Parts = WHOLE) -> Tensor:
    """Linear centred kernel alignment of two sets of features (Kornblith et al. 2019, eq. 4).

    The score does not depend on either side's scale, offset or rotation. With few samples for the
    width it is far from 0 even for independent features (0.68 for 64 samples, 96 and 192 channels);
    the unbiased form is not, but it can fall below 0.

    Args:
        x: (N, D1), one row per sample.
        y: (N, D2), the same samples.
        unbiased: Use the debiased estimator of HSIC. Needs at least 4 samples.
        parts: Who holds the rows. With several processes the cross-products are summed over all, which
            gives the score of the whole batch; a mean of their own scores would be too high.

    Returns:
        The score, 1 for features alike up to rotation and scale; 0 where either side is constant.

    Raises:
        ValueError: The numbers of samples differ or are too few.
    """
    rows = _check_pair(x, y, least=4 if unbiased else 2, parts=parts)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        a, b = _centred(x, rows, parts), _centred(y, rows, parts)
        product = partial(_unbiased_cross, n=rows) if unbiased else _cross
        scale = (product(a, a, parts=parts) * product(b, b, parts=parts)).sqrt()
        return torch.where(scale == 0, torch.zeros_like(scale), product(a, b, parts=parts) / scale)


def mean_cosine(x: Tensor, y: Tensor, *, parts: Parts = WHOLE) -> Tensor:
    """Mean cosine similarity of matching rows.

    Args:
        x: (N, D).
        y: (N, D).
        parts: Who holds the rows.

    Returns:
        The score in [-1, 1]; a row of zeros counts as 0.

    Raises:
        ValueError: The shapes differ.
    """
    rows = _check_pair(x, y, least=1, parts=parts)
    if x.shape != y.shape:
        raise ValueError(f"the cosine needs equal widths, got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return parts.sum((_unit_rows(x) * _unit_rows(y)).sum()) / rows


def _unit_rows(features: Tensor) -> Tensor:
    x = features.detach().float()
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax(1, keepdim=True).clamp_min(tiny)
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / lengths.clamp_min(tiny)


def _check_pair(x: Tensor, y: Tensor, least: int, parts: Parts) -> int:
    """The number of rows over all processes."""
    rows = len(x) if parts is WHOLE else int(parts.sum(torch.tensor(len(x), device=x.device)))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or rows < least:
        raise ValueError(
            f"alignment needs two matrices of the same {least} or more samples, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return rows


class Alignment(NamedTuple):
    """A score that a scheduler can ask for.

    Attributes:
        score: ``(x, y, parts=…) -> scalar``, both (N, D).
        macs: ``(samples, channels) -> multiply-adds`` of measuring it once, for the ledger.
    """

    score: Callable[..., Tensor]
    macs: Callable[[int, int], int]


def _cka_macs(n: int, d: int) -> int:
    """Three crosses, of one product each through the features or two through the samples."""
    return 6 * n * n * d if n < d else 3 * n * d * d


ALIGNMENTS = {
    "cka": Alignment(linear_cka, _cka_macs),
    "unbiased_cka": Alignment(partial(linear_cka, unbiased=True), _cka_macs),
    "cosine": Alignment(mean_cosine, lambda n, d: 3 * n * d),
}
"""The scores by name."""
