"""How alike two sets of features are: the scores that a difficulty scheduler decides by.

Every score is a 0-dimensional tensor on the features' device, in float32, without gradient. It is NaN
where the features hold a NaN or an infinity; schedulers skip such a score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

# Relative to the largest value, float32 rounding leaves about this much of a column that is constant.
CONSTANT = 1e-6


ReduceOp = Literal["sum", "max", "mean"]


class Parts(Protocol):
    """The processes that hold the rows of a batch among them."""

    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """The sum, largest or mean of all processes' tensors, element by element; the same on each."""


class Whole:
    """This process holds all rows."""

    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """The tensor itself."""
        return tensor


WHOLE = Whole()


class _CentredPair(NamedTuple):
    """Two sets of features in float32, scaled and centred.

    Attributes:
        x: (n, D1), this process's rows.
        y: (n, D2).
        constant: Whether one of them does not vary; false where one is not finite, to keep the score NaN.
    """

    x: Tensor
    y: Tensor
    constant: Tensor


def _centred(x: Tensor, y: Tensor, rows: int, parts: Parts) -> _CentredPair:
    """Scale each side to a largest entry of 1, so that no square overflows, and centre its columns.

    With X (N, D) the N ``rows`` of all processes: ``X' = X / max|X| - mean over rows``. The side is constant
    where its mean square ``||X'||_F^2 / (N D)`` is at most ``CONSTANT^2``.
    """
    both = [features.detach().float() for features in (x, y)]
    largest = parts.all_reduce(torch.stack([largest_entry(features) for features in both]), "max")
    scales = largest.clamp_min(torch.finfo(torch.float32).tiny)
    both = [features / scale for features, scale in zip(both, scales, strict=True)]
    means = parts.all_reduce(torch.cat([features.sum(0) for features in both])) / rows
    for features, mean in zip(both, means.split([x.shape[1], y.shape[1]]), strict=True):
        features -= mean
    sizes = [torch.linalg.vector_norm(features).square() / features.shape[1] for features in both]
    constant = parts.all_reduce(torch.stack(sizes)) <= CONSTANT**2 * rows
    return _CentredPair(both[0], both[1], constant.any())


def largest_entry(features: Tensor) -> Tensor:
    """The largest absolute entry of a matrix; 0 where it has no rows."""
    if not len(features):
        return features.new_zeros(())
    least, most = features.aminmax()
    return torch.maximum(-least, most)


class _Hsic(NamedTuple):
    """HSIC of each pair of sides, but for a factor that all three share.

    The biased ones of centred X and Y are ``||X^T X||_F^2``, ``||X^T Y||_F^2`` and ``||Y^T Y||_F^2``.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor


def _biased_hsic(x: Tensor, y: Tensor, parts: Parts) -> _Hsic:
    """From the features' products, ``X^T X`` (D, D) and so on, which are summed over all processes.

    Where all n rows are here and n < D, the samples' products K = X X^T and M = Y Y^T (n, n) are cheaper:
    ``||X^T Y||_F^2 = tr(K M) = sum_ij K_ij M_ij``.
    """
    if parts is WHOLE and len(x) < min(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        return _Hsic((k * k).sum(), (k * m).sum(), (m * m).sum())
    x_upper, x_corner, xy, y_upper, y_corner = _summed([*_upper_half(x), x.T @ y, *_upper_half(y)], parts)
    return _Hsic(_square_norm(x_upper, x_corner), xy.square().sum(), _square_norm(y_upper, y_corner))


def _summed(shares: list[Tensor], parts: Parts) -> list[Tensor]:
    """Each tensor's sum over all parts, in one exchange."""
    if parts is WHOLE:
        return shares
    sums = parts.all_reduce(torch.cat([share.flatten() for share in shares]))
    each = sums.split([share.numel() for share in shares])
    return [whole.view_as(share) for whole, share in zip(each, shares, strict=True)]


def _upper_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper rows ``[A B]`` (D/2, D) of ``X^T X = [[A, B], [B^T, C]]`` and its corner C (D/2, D/2)."""
    half = x.shape[1] // 2
    return x[:, :half].T @ x, x[:, half:].T @ x[:, half:]


def _square_norm(upper: Tensor, corner: Tensor) -> Tensor:
    """``||A||^2 + 2 ||B||^2 + ||C||^2``: the squared norm of a symmetric matrix from its upper half."""
    half = len(upper)
    return upper[:, :half].square().sum() + 2 * upper[:, half:].square().sum() + corner.square().sum()


def _unbiased_hsic(pair: _CentredPair, biased: _Hsic, parts: Parts, n: int) -> _Hsic:
    """Debiased estimates (Song et al. 2012, eq. 5), from the biased ones of centred features.

    With K and M of zero diagonal, eq. 5 is ``tr(K M) + (1'K1)(1'M1) / ((n-1)(n-2)) - 2 (1'KM1) / (n-2)``.
    Centred rows add up to 0, so that ``K1 = -p`` with p_i = ||x_i||^2 (n,), likewise q of Y, and it becomes
    ``||X^T Y||_F^2 - p'q + (1'p)(1'q) / ((n-1)(n-2)) - 2 p'q / (n-2)``.
    """
    p, q = pair.x.square().sum(1), pair.y.square().sum(1)
    sums = parts.all_reduce(torch.stack([(p * p).sum(), (p * q).sum(), (q * q).sum(), p.sum(), q.sum()]))
    pp, pq, qq, sum_p, sum_q = sums.unbind()

    def debiased(hsic: Tensor, diagonal: Tensor, total: Tensor) -> Tensor:
        return hsic + total / ((n - 1) * (n - 2)) - diagonal * (1 + 2 / (n - 2))

    return _Hsic(
        debiased(biased.xx, pp, sum_p * sum_p),
        debiased(biased.xy, pq, sum_p * sum_q),
        debiased(biased.yy, qq, sum_q * sum_q),
    )


def linear_cka(
    x: Tensor, y: Tensor, *, unbiased: bool = False, parts: Parts = WHOLE, rows: int | None = None
) -> Tensor:
    """Linear centred kernel alignment of two sets of features (Kornblith et al. 2019, eq. 4).

    That is ``||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of centred columns.

    The score does not depend on either side's scale, offset or rotation. With few samples for the
    width it is far from 0 even for independent features (0.68 for 64 samples, 96 and 192 channels);
    the unbiased form is not, but it can fall below 0.

    Args:
        x: (N, D1), one row per sample.
        y: (N, D2), the same samples.
        unbiased: Use the debiased estimator of HSIC. Needs at least 4 samples.
        parts: Who holds the rows. With several processes the cross-products are summed over all, which
            gives the score of the whole batch; a mean of their own scores would be too high.
        rows: How many rows they all hold together; None to count them, which takes an exchange.

    Returns:
        The score, 1 for features alike up to rotation and scale; 0 where either side is constant.

    Raises:
        ValueError: The numbers of samples differ or are too few.

    Example:
        >>> import torch
        >>> random = torch.Generator().manual_seed(0)
        >>> x = torch.randn(256, 8, generator=random)
        >>> rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=random))
        >>> round(linear_cka(x, 3 * x @ rotation + 5).item(), 3)
        1.0
        >>> unrelated = torch.randn(256, 300, generator=random)
        >>> f"{linear_cka(x, unrelated):.2f}, unbiased {linear_cka(x, unrelated, unbiased=True).abs():.2f}"
        '0.13, unbiased 0.00'
    """
    rows = _check_pair(x, y, least=4 if unbiased else 2, parts=parts, rows=rows)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        pair = _centred(x, y, rows, parts)
        hsic = _biased_hsic(pair.x, pair.y, parts)
        if unbiased:
            hsic = _unbiased_hsic(pair, hsic, parts, rows)
        scale = (hsic.xx * hsic.yy).sqrt()
        zero = pair.constant | (scale == 0)
        return torch.where(zero, torch.zeros_like(scale), hsic.xy / scale)


def mean_cosine(x: Tensor, y: Tensor, *, parts: Parts = WHOLE, rows: int | None = None) -> Tensor:
    """Mean cosine similarity of matching rows.

    Args:
        x: (N, D).
        y: (N, D).
        parts: Who holds the rows.
        rows: How many they all hold together; None to count them, which takes an exchange.

    Returns:
        The score in [-1, 1]; a row of zeros counts as 0.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> mean_cosine(x, 5 * x), mean_cosine(x, x.flip(0))
        (tensor(1.), tensor(0.))
    """
    rows = _check_pair(x, y, least=1, parts=parts, rows=rows)
    if x.shape != y.shape:
        raise ValueError(f"the cosine needs equal widths, got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return parts.all_reduce((_unit_rows(x) * _unit_rows(y)).sum()) / rows


def _unit_rows(features: Tensor) -> Tensor:
    x = features.detach().float()
    tiny = torch.finfo(x.dtype).tiny
    x = x / x.abs().amax(1, keepdim=True).clamp_min(tiny)
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / lengths.clamp_min(tiny)


def _check_pair(x: Tensor, y: Tensor, least: int, parts: Parts, rows: int | None) -> int:
    """The number of rows over all processes."""
    if rows is None:
        rows = len(x) if parts is WHOLE else int(parts.all_reduce(torch.tensor(len(x), device=x.device)))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or rows < least:
        raise ValueError(
            f"alignment needs two matrices of the same {least} or more samples, "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return rows


class Alignment(NamedTuple):
    """A score that a scheduler can ask for.

    Attributes:
        score: ``(x, y, parts=…, rows=…) -> scalar``, both (N, D).
        macs: ``(samples, channels) -> multiply-adds`` of measuring it once, for the ledger.
    """

    score: Callable[..., Tensor]
    macs: Callable[[int, int], int]


def _cka_macs(n: int, d: int) -> int:
    """``2 n^2 d`` by the samples' products; else ``n d^2 (3/4 + 1 + 3/4)``, see :func:`_biased_hsic`."""
    return 2 * n * n * d if n < d else n * d * d * 5 // 2


ALIGNMENTS = {
    "cka": Alignment(linear_cka, _cka_macs),
    "unbiased_cka": Alignment(partial(linear_cka, unbiased=True), _cka_macs),
    "cosine": Alignment(mean_cosine, lambda n, d: 3 * n * d),
}
"""The scores by name."""
