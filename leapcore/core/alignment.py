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
CONSTANT = 1e-6


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


class _Pair(NamedTuple):
    """Two sets of features, made ready: float32, columns centred, the largest entry about 1.

    Attributes:
        x: (n, D1), this process's rows.
        y: (n, D2).
        constant: Whether one of them does not vary; false where one is not finite, to keep the score NaN.
    """

    x: Tensor
    y: Tensor
    constant: Tensor


def _prepared(x: Tensor, y: Tensor, rows: int, parts: Parts) -> _Pair:
    both = [features.detach().float() for features in (x, y)]
    largest = parts.max(torch.stack([largest_entry(features) for features in both]))
    scales = largest.clamp_min(torch.finfo(torch.float32).tiny)
    both = [features / scale for features, scale in zip(both, scales, strict=True)]
    means = parts.sum(torch.cat([features.sum(0) for features in both])) / rows
    for features, mean in zip(both, means.split([x.shape[1], y.shape[1]]), strict=True):
        features -= mean
    sizes = [torch.linalg.vector_norm(features).square() / features.shape[1] for features in both]
    constant = parts.sum(torch.stack(sizes)) <= CONSTANT**2 * rows
    return _Pair(both[0], both[1], constant.any())


def largest_entry(features: Tensor) -> Tensor:
    """The largest absolute entry of a matrix; 0 where it has no rows."""
    if not len(features):
        return features.new_zeros(())
    least, most = features.aminmax()
    return torch.maximum(-least, most)


class _Products(NamedTuple):
    """``||X^T X||_F^2``, ``||X^T Y||_F^2`` and ``||Y^T Y||_F^2``, or unbiased estimates of the same."""

    xx: Tensor
    xy: Tensor
    yy: Tensor


def _products(x: Tensor, y: Tensor, parts: Parts) -> _Products:
    """Through the samples' products where all are here and fewer than the features, which is cheaper."""
    if parts is WHOLE and len(x) < min(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        return _Products((k * k).sum(), (k * m).sum(), (m * m).sum())
    x_upper, x_corner, xy, y_upper, y_corner = _summed([*_upper_half(x), x.T @ y, *_upper_half(y)], parts)
    return _Products(_square_norm(x_upper, x_corner), xy.square().sum(), _square_norm(y_upper, y_corner))


def _summed(shares: list[Tensor], parts: Parts) -> list[Tensor]:
    """Each tensor's sum over all parts, in one exchange."""
    if parts is WHOLE:
        return shares
    sums = parts.sum(torch.cat([share.flatten() for share in shares]))
    each = sums.split([share.numel() for share in shares])
    return [whole.view_as(share) for whole, share in zip(each, shares, strict=True)]


def _upper_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper rows of ``X^T X`` and its lower right corner; the rest is their mirror image."""
    half = x.shape[1] // 2
    return x[:, :half].T @ x, x[:, half:].T @ x[:, half:]


def _square_norm(upper: Tensor, corner: Tensor) -> Tensor:
    """The squared Frobenius norm of a symmetric matrix, from its :func:`_upper_half`."""
    half = len(upper)
    return upper[:, :half].square().sum() + 2 * upper[:, half:].square().sum() + corner.square().sum()


def _unbiased(pair: _Pair, products: _Products, parts: Parts, n: int) -> _Products:
    """Debiased estimates of the products (Song et al. 2012, eq. 5), without their constant factor."""
    p, q = pair.x.square().sum(1), pair.y.square().sum(1)
    sums = parts.sum(torch.stack([(p * p).sum(), (p * q).sum(), (q * q).sum(), p.sum(), q.sum()]))
    pp, pq, qq, all_p, all_q = sums.unbind()

    def corrected(product: Tensor, same: Tensor, ends: Tensor) -> Tensor:
        return product + ends / ((n - 1) * (n - 2)) - same * (1 + 2 / (n - 2))

    return _Products(
        corrected(products.xx, pp, all_p * all_p),
        corrected(products.xy, pq, all_p * all_q),
        corrected(products.yy, qq, all_q * all_q),
    )


def linear_cka(
    x: Tensor, y: Tensor, *, unbiased: bool = False, parts: Parts = WHOLE, rows: int | None = None
) -> Tensor:
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
        rows: How many rows they all hold together; if not given, they are asked.

    Returns:
        The score, 1 for features alike up to rotation and scale; 0 where either side is constant.

    Raises:
        ValueError: The numbers of samples differ or are too few.
    """
    rows = _check_pair(x, y, least=4 if unbiased else 2, parts=parts, rows=rows)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        pair = _prepared(x, y, rows, parts)
        products = _products(pair.x, pair.y, parts)
        if unbiased:
            products = _unbiased(pair, products, parts, rows)
        scale = (products.xx * products.yy).sqrt()
        zero = pair.constant | (scale == 0)
        return torch.where(zero, torch.zeros_like(scale), products.xy / scale)


def mean_cosine(x: Tensor, y: Tensor, *, parts: Parts = WHOLE, rows: int | None = None) -> Tensor:
    """Mean cosine similarity of matching rows.

    Args:
        x: (N, D).
        y: (N, D).
        parts: Who holds the rows.
        rows: How many they all hold together; if not given, they are asked.

    Returns:
        The score in [-1, 1]; a row of zeros counts as 0.

    Raises:
        ValueError: The shapes differ.
    """
    rows = _check_pair(x, y, least=1, parts=parts, rows=rows)
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


def _check_pair(x: Tensor, y: Tensor, least: int, parts: Parts, rows: int | None) -> int:
    """The number of rows over all processes."""
    if rows is None:
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
        score: ``(x, y, parts=…, rows=…) -> scalar``, both (N, D).
        macs: ``(samples, channels) -> multiply-adds`` of measuring it once, for the ledger.
    """

    score: Callable[..., Tensor]
    macs: Callable[[int, int], int]


def _cka_macs(n: int, d: int) -> int:
    """Of ``X^T X`` and ``Y^T Y`` three quarters are computed, of ``X^T Y`` all; or both sides' samples."""
    return 2 * n * n * d if n < d else n * d * d * 5 // 2


ALIGNMENTS = {
    "cka": Alignment(linear_cka, _cka_macs),
    "unbiased_cka": Alignment(partial(linear_cka, unbiased=True), _cka_macs),
    "cosine": Alignment(mean_cosine, lambda n, d: 3 * n * d),
}
"""The scores by name."""


class BatchAlignment:
    """The alignment of a batch of which each process holds a share, measured on its first images.

    Args:
        name: Of the score, in :data:`ALIGNMENTS`.
        batch_size: Images per step, over all processes.
        sample_images: On how many images it is measured; None for all of them.
        parts: Who holds the batch.
        share: Which of its images are here.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        sample_images: int | None = None,
        *,
        parts: Parts = WHOLE,
        share: slice | None = None,
    ) -> None:
        self.name = name
        share = share or slice(0, batch_size)
        self._score = ALIGNMENTS[name]
        self._images = min(sample_images or batch_size, batch_size)
        self._held = share.stop - share.start
        self._sampled_here = min(max(self._images - share.start, 0), self._held)
        self._parts = parts

    def __call__(self, projected: Tensor, target: Tensor) -> Tensor:
        """The score of the whole batch, the same on every process.

        Args:
            projected: (B * N, C), the projected tokens of this process's images, image by image.
            target: (B * N, C), the teacher's.
        """
        per_image = len(target) // self._held
        rows = self._sampled_here * per_image
        return self._score.score(
            projected[:rows], target[:rows], parts=self._parts, rows=self.tokens(per_image)
        )

    def tokens(self, per_image: int) -> int:
        """On how many tokens it is measured, over all processes, of so many tokens per image."""
        return self._images * per_image

    def macs(self, per_image: int, channels: int) -> int:
        """Multiply-adds of measuring it once."""
        return self._score.macs(self.tokens(per_image), channels)
