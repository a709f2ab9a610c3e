"""Linear CKA of every layer of one backbone with every layer of another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from leapcore.core.alignment import CONSTANT, largest_entry
from leapcore.core.features import LayerFeatures, on_common_grid
from leapcore.core.objective import CommonGrid

Layers = Callable[[Tensor], Iterable[LayerFeatures]]
"""Gives the features of one layer after the other, of images (B, 3, H, W)."""


@torch.no_grad()
def cka_map(
    student: Layers, teacher: Layers, batches: Iterable[Tensor], *, grid: CommonGrid = "smaller"
) -> list[list[float]]:
    """Linear CKA of all pairs of layers, the biased one of :func:`leapcore.linear_cka`, over all images.

    A pair is compared on the tokens of all images, without prefix tokens, on the pair's common grid
    (:func:`leapcore.core.features.on_common_grid`). The tokens are summed up batch by batch, in float32,
    and not kept: sums (C,) and (C, C) stay of each layer on each grid, and (C_student, C_teacher) of a pair.

    Args:
        student: Gives the layers of the map's rows.
        teacher: Gives those of its columns; each is freed before the next is asked for.
        batches: Images (B, 3, H, W), as both take them.
        grid: Which of a pair's two grids is the common one.

    Returns:
        For each of the student's layers a list of scores, one per layer of the teacher; 0 where a layer is
        constant, NaN where one is not finite.

    Example:
        >>> import torch
        >>> def backbone(images):  # two layers, the second of another grid
        ...     yield LayerFeatures.from_nchw(images)
        ...     yield LayerFeatures.from_nchw(images**9).resized((2, 2))
        >>> images = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> [[round(score, 2) for score in row] for row in cka_map(backbone, backbone, images.split(8))]
        [[1.0, 0.55], [0.55, 1.0]]
    """
    rows, columns, pairs = _BackboneSums(), _BackboneSums(), dict[tuple[int, int], _PairSums]()
    for images in batches:
        layers = [features.map(Tensor.float) for features in student(images)]
        for column, target in enumerate(teacher(images)):
            # A teacher of 16 bits is run under autocast.
            with torch.autocast(images.device.type, enabled=False):
                wide = target.map(Tensor.float)
                for row, features in enumerate(layers):
                    ours, theirs = on_common_grid(features, wide, grid=grid)
                    x, y = rows.add(row, ours), columns.add(column, theirs)
                    if (row, column) not in pairs:
                        pairs[row, column] = _PairSums(x, y)
                    pairs[row, column].add()
            columns.end_batch()
        rows.end_batch()
    return _table(pairs)


class _LayerSums:
    """The sums over a layer's tokens on one grid.

    Tokens t (C,) are scaled and shifted by numbers of their first batch, x = t / max|t| - mean: sums of raw
    tokens would lose a small variance beside a large mean. Of the n tokens of all batches then stay
    s = sum x (C,) and S = sum x x^T (C, C), from which the centred product follows as S - s s^T / n.

    Args:
        tokens: (n, C), the first batch.

    Attributes:
        batch: (n, C), the batch that was added last, scaled and shifted.
        count: n, how many tokens there were.
        total: s (C,), their sum.
        products: S (C, C), the sum of their outer products.
    """

    def __init__(self, tokens: Tensor) -> None:
        largest = largest_entry(tokens)
        self._scale = torch.where(largest == 0, torch.ones_like(largest), largest)
        self._shift = (tokens / self._scale).mean(0)
        self.batch = tokens
        self.count = 0
        self.total = torch.zeros_like(self._shift)
        self.products = torch.zeros_like(torch.outer(self._shift, self._shift))

    def add(self, tokens: Tensor) -> None:
        """Add a batch (n, C)."""
        self.batch = tokens / self._scale - self._shift
        self.count += len(tokens)
        self.total += self.batch.sum(0)
        self.products += self.batch.T @ self.batch

    def norm(self) -> Tensor:
        """``||X^T X||_F = ||S - s s^T / n||_F`` of the centred tokens X (n, C); 0 where they are constant."""
        centred = self.products - torch.outer(self.total, self.total) / self.count
        constant = centred.trace() <= CONSTANT**2 * self.count * len(centred)
        return torch.where(constant, torch.zeros_like(self._scale), torch.linalg.matrix_norm(centred))


class _PairSums:
    """The sum P = sum x y^T (C_student, C_teacher) over the tokens of two layers.

    Args:
        x: A layer of the student.
        y: A layer of the teacher, on the same grid.
    """

    def __init__(self, x: _LayerSums, y: _LayerSums) -> None:
        self._x, self._y = x, y
        self._products = torch.zeros_like(torch.outer(x.total, y.total))

    def add(self) -> None:
        """Add the batch that was added to both layers."""
        self._products += self._x.batch.T @ self._y.batch

    def score(self) -> Tensor:
        """Linear CKA: ``||P - s_x s_y^T / n||_F^2 / (||X^T X||_F ||Y^T Y||_F)``."""
        x, y = self._x, self._y
        centred = self._products - torch.outer(x.total, y.total) / x.count
        scale = x.norm() * y.norm()
        return torch.where(scale == 0, scale, centred.square().sum() / scale)


class _BackboneSums:
    """The layers of one backbone, each on every grid that some pair asks for."""

    def __init__(self) -> None:
        self._layers: dict[Any, _LayerSums] = {}
        self._in_batch: set[Any] = set()  # the layers that this batch was added to

    def add(self, layer: int, features: LayerFeatures) -> _LayerSums:
        """A layer's sums; its tokens of this batch are added by the first call alone."""
        tokens, key = features.tokens.flatten(0, 1), (layer, features.grid, features.tokens.shape[1])
        if key not in self._layers:
            self._layers[key] = _LayerSums(tokens)
        if key not in self._in_batch:
            self._layers[key].add(tokens)
            self._in_batch.add(key)
        return self._layers[key]

    def end_batch(self) -> None:
        """Free the batch's tokens; only sums stay."""
        for key in self._in_batch:
            self._layers[key].batch = torch.empty(0)
        self._in_batch.clear()


def _table(pairs: dict[tuple[int, int], _PairSums]) -> list[list[float]]:
    """Scores by row and column; they come to the host in one transfer."""
    scores = torch.stack([pair.score() for _, pair in sorted(pairs.items(), key=lambda item: item[0])])
    table: list[list[float]] = scores.view(1 + max(row for row, _ in pairs), -1).tolist()
    return table
