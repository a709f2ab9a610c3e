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
    and not kept: C x C products stay of a layer on a grid, and C_student x C_teacher of a pair.

    Args:
        student: Gives the layers of the map's rows.
        teacher: Gives those of its columns; each is let go before the next is asked for.
        batches: Images (B, 3, H, W), as both take them.
        grid: Which of a pair's two grids is the common one.

    Returns:
        For each of the student's layers a list of scores, one per layer of the teacher; 0 where a layer is
        constant, NaN where one is not finite.
    """
    rows, columns, pairs = _Side(), _Side(), dict[tuple[int, int], _Pair]()
    for images in batches:
        layers = [features.map(Tensor.float) for features in student(images)]
        for column, target in enumerate(teacher(images)):
            # A teacher of 16 bits is run under autocast.
            with torch.autocast(images.device.type, enabled=False):
                wide = target.map(Tensor.float)
                for row, features in enumerate(layers):
                    ours, theirs = on_common_grid(features, wide, grid=grid)
                    x, y = rows.added(row, ours), columns.added(column, theirs)
                    if (row, column) not in pairs:
                        pairs[row, column] = _Pair(x, y)
                    pairs[row, column].add()
            columns.let_go()
        rows.let_go()
    return _table(pairs)


class _Layer:
    """The sums over a layer's tokens on one grid.

    They are first scaled and shifted as their first batch asks for: the sums of raw tokens would lose a small
    variance beside a large mean.

    Args:
        tokens: (n, C), the first batch.

    Attributes:
        batch: (n, C), the batch that was added last, made ready.
        count: How many tokens there were.
        total: (C,), their sum.
        products: (C, C), their products.
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
        """``||X^T X||_F`` of the centred tokens X; 0 where they are constant."""
        centred = self.products - torch.outer(self.total, self.total) / self.count
        constant = centred.trace() <= CONSTANT**2 * self.count * len(centred)
        return torch.where(constant, torch.zeros_like(self._scale), torch.linalg.matrix_norm(centred))


class _Pair:
    """The products of two layers' tokens.

    Args:
        x: A layer of the student.
        y: A layer of the teacher, on the same grid.
    """

    def __init__(self, x: _Layer, y: _Layer) -> None:
        self._x, self._y = x, y
        self._products = torch.zeros_like(torch.outer(x.total, y.total))

    def add(self) -> None:
        """Add the batch that was added to both layers."""
        self._products += self._x.batch.T @ self._y.batch

    def score(self) -> Tensor:
        """Linear CKA."""
        x, y = self._x, self._y
        centred = self._products - torch.outer(x.total, y.total) / x.count
        scale = x.norm() * y.norm()
        return torch.where(scale == 0, scale, centred.square().sum() / scale)


class _Side:
    """The layers of one backbone, each on every grid that some pair asks for."""

    def __init__(self) -> None:
        self._layers: dict[Any, _Layer] = {}
        self._fresh: set[Any] = set()

    def added(self, layer: int, features: LayerFeatures) -> _Layer:
        """A layer's sums; its tokens of this batch are added when it is first asked for."""
        tokens, key = features.tokens.flatten(0, 1), (layer, features.grid, features.tokens.shape[1])
        if key not in self._layers:
            self._layers[key] = _Layer(tokens)
        if key not in self._fresh:
            self._layers[key].add(tokens)
            self._fresh.add(key)
        return self._layers[key]

    def let_go(self) -> None:
        """Forget the batch itself."""
        for key in self._fresh:
            self._layers[key].batch = torch.empty(0)
        self._fresh.clear()


def _table(pairs: dict[tuple[int, int], _Pair]) -> list[list[float]]:
    """Scores by row and column; they come to the host in one transfer."""
    scores = torch.stack([pair.score() for _, pair in sorted(pairs.items(), key=lambda item: item[0])])
    found: list[list[float]] = scores.view(1 + max(row for row, _ in pairs), -1).tolist()
    return found
