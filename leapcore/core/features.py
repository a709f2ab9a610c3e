"""What a layer of a backbone yields, and how two such features are brought together.

Shape letters: B images, N tokens of the grid, P prefix tokens, C channels, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from leapcore.core.objective import CommonGrid


class LayerInfo(NamedTuple):
    """What is known of a layer before any image is seen.

    Attributes:
        name: The module's path in the backbone, e.g. ``"blocks.3"``.
        channels: Width C of its features.
        stride: Input pixels per grid cell, along one side.

    Example:
        >>> LayerInfo("blocks.3", channels=384, stride=14)
        LayerInfo(name='blocks.3', channels=384, stride=14)
    """

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class LayerFeatures:
    """The output of one layer.

    Attributes:
        tokens: (B, N, C), the grid row by row.
        grid: (H, W) with H * W = N, or None where tokens have no places (text).
        prefix_tokens: (B, P, C), the class token first, or None for a backbone without a class token.

    Example:
        >>> features = LayerFeatures.from_nchw(torch.rand(2, 384, 8, 8))  # of a convolutional network
        >>> features.tokens.shape, features.grid, features.pooled.shape
        (torch.Size([2, 64, 384]), (8, 8), torch.Size([2, 384]))
        >>> features.resized((4, 4)).tokens.shape
        torch.Size([2, 16, 384])
    """

    tokens: Tensor
    grid: tuple[int, int] | None = None
    prefix_tokens: Tensor | None = None

    @classmethod
    def from_nchw(cls, feature_map: Tensor) -> LayerFeatures:
        """Features of a convolutional layer, from its map (B, C, H, W)."""
        height, width = feature_map.shape[-2:]
        return cls(feature_map.flatten(2).transpose(1, 2), (height, width))

    @classmethod
    def joined(cls, pieces: Sequence[LayerFeatures]) -> LayerFeatures:
        """The features of several batches as one; their grids are the same."""
        prefixes = [piece.prefix_tokens for piece in pieces if piece.prefix_tokens is not None]
        tokens = torch.cat([piece.tokens for piece in pieces])
        return cls(tokens, pieces[0].grid, torch.cat(prefixes) if prefixes else None)

    @property
    def tensors(self) -> list[Tensor]:
        """The tokens, and the prefix tokens where there are some."""
        return [self.tokens] if self.prefix_tokens is None else [self.tokens, self.prefix_tokens]

    @property
    def channels(self) -> int:
        """Width C."""
        return int(self.tokens.shape[-1])  # while a graph is traced, sizes are tensors

    @property
    def pooled(self) -> Tensor:
        """One vector per image (B, C): the class token, else the mean over the tokens."""
        return self.tokens.mean(1) if self.prefix_tokens is None else self.prefix_tokens[:, 0]

    def resized(self, grid: tuple[int, int]) -> LayerFeatures:
        """The same features on another grid: averaged where it is smaller, bilinear where it is larger.

        Raises:
            ValueError: These tokens have no grid.
        """
        if grid == self.grid:
            return self
        if self.grid is None:
            raise ValueError("features without a grid cannot be resized")
        feature_map = self.tokens.transpose(1, 2).unflatten(2, self.grid)
        smaller = (min(grid[0], self.grid[0]), min(grid[1], self.grid[1]))
        if smaller != self.grid:
            feature_map = F.adaptive_avg_pool2d(feature_map, smaller)
        if smaller != grid:
            feature_map = F.interpolate(feature_map, grid, mode="bilinear")
        return replace(self, tokens=feature_map.flatten(2).transpose(1, 2), grid=grid)

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerFeatures:
        """Apply a per-token function, such as a norm or a projector, to tokens and prefix tokens alike."""
        prefix = None if self.prefix_tokens is None else function(self.prefix_tokens)
        return replace(self, tokens=function(self.tokens), prefix_tokens=prefix)


def on_common_grid(
    a: LayerFeatures, b: LayerFeatures, *, grid: CommonGrid = "smaller"
) -> tuple[LayerFeatures, LayerFeatures]:
    """Bring two features to one grid, so that their tokens can be compared one by one.

    Where one of them has no grid, their tokens are compared in order if they are equally many; else each is
    reduced to one token, its pooled vector.

    Args:
        a: One of them.
        b: The other.
        grid: ``"smaller"`` averages the larger grid down, ``"larger"`` stretches the smaller one bilinearly.

    Example:
        >>> fine = LayerFeatures(torch.rand(2, 64, 24), (8, 8))
        >>> coarse = LayerFeatures(torch.rand(2, 16, 48), (4, 4))
        >>> [features.grid for features in on_common_grid(fine, coarse)]
        [(4, 4), (4, 4)]
        >>> [features.tokens.shape for features in on_common_grid(fine, coarse, grid="larger")]
        [torch.Size([2, 64, 24]), torch.Size([2, 64, 48])]
    """
    if a.grid is None or b.grid is None:
        return (a, b) if a.tokens.shape[1] == b.tokens.shape[1] else (_as_one_token(a), _as_one_token(b))
    choose: Callable[[int, int], int] = {"smaller": min, "larger": max}[grid]
    common = (choose(a.grid[0], b.grid[0]), choose(a.grid[1], b.grid[1]))
    return a.resized(common), b.resized(common)


def _as_one_token(features: LayerFeatures) -> LayerFeatures:
    pooled = features.pooled.unsqueeze(1)
    return LayerFeatures(pooled, None, pooled)
