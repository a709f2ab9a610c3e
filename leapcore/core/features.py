"""Layer features and the provider that yields them, shallow to deep.

Shape letters: B images, N tokens of the grid, P prefix tokens, C channels, H and W rows and columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerInfo(NamedTuple):
    """What is known of a layer before any image is seen.

    Attributes:
        name: The module's path in the backbone, e.g. ``"blocks.3"``.
        channels: Width C of its features.
        stride: Input pixels per grid cell, along one side.
    """

    name: str
    channels: int
    stride: int


class ImageInput(NamedTuple):
    """The images that a backbone was made for.

    Attributes:
        size: Height and width in pixels.
        mean: Mean per colour channel that is subtracted from pixels in [0, 1].
        std: Standard deviation per colour channel that they are divided by.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class LayerFeatures:
    """The output of one layer.

    Attributes:
        tokens: (B, N, C), the grid row by row.
        grid: (H, W) with H * W = N, or None where tokens have no places (text).
        prefix_tokens: (B, P, C), the class token first, or None for a backbone without a class token.
    """

    tokens: Tensor
    grid: tuple[int, int] | None = None
    prefix_tokens: Tensor | None = None

    @classmethod
    def from_nchw(cls, feature_map: Tensor) -> LayerFeatures:
        """Features of a convolutional layer, from its map (B, C, H, W)."""
        height, width = feature_map.shape[-2:]
        return cls(feature_map.flatten(2).transpose(1, 2), (height, width))

    @property
    def channels(self) -> int:
        """Width C."""
        return self.tokens.shape[-1]

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
        if grid[0] <= self.grid[0] and grid[1] <= self.grid[1]:
            feature_map = F.adaptive_avg_pool2d(feature_map, grid)
        else:
            feature_map = F.interpolate(feature_map, grid, mode="bilinear", antialias=True)
        return replace(self, tokens=feature_map.flatten(2).transpose(1, 2), grid=grid)

    def map(self, function: nn.Module) -> LayerFeatures:
        """Apply a per-token module, such as a norm or a projector, to tokens and prefix tokens alike."""
        prefix = None if self.prefix_tokens is None else function(self.prefix_tokens)
        return replace(self, tokens=function(self.tokens), prefix_tokens=prefix)


def on_common_grid(a: LayerFeatures, b: LayerFeatures) -> tuple[LayerFeatures, LayerFeatures]:
    """Bring two features to one grid: the larger is pooled to the smaller."""
    if a.grid is None or b.grid is None:
        return a, b
    grid = (min(a.grid[0], b.grid[0]), min(a.grid[1], b.grid[1]))
    return a.resized(grid), b.resized(grid)


class LayerFeatureProvider(nn.Module, ABC):
    """A backbone seen as a sequence of layers, shallow to deep, one per block.

    A subclass calls ``super().__init__(layers, image_input)``, keeps its network as a submodule and
    implements :meth:`iter_layers`.

    Attributes:
        layers: One :class:`LayerInfo` per block; the index into it names a layer everywhere.
        image_input: Size and normalisation that the backbone expects.
        embedding: The patch embedding that :meth:`embed` yields, None for a backbone without one.
    """

    embedding: LayerInfo | None = None
    _mean: Tensor
    _std: Tensor

    def __init__(self, layers: Sequence[LayerInfo], image_input: ImageInput) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.image_input = image_input
        self.register_buffer("_mean", torch.tensor(image_input.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(image_input.std).view(-1, 1, 1), persistent=False)

    @abstractmethod
    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield the raw features of each layer in turn.

        Whoever stops consuming stops the computation: a generator that yields after each block does so.

        Args:
            images: (B, 3, H, W), normalised as :attr:`image_input` says.
        """

    def embed(self, images: Tensor) -> LayerFeatures:
        """The image's patches, projected: no position, no block yet. Only with an :attr:`embedding`.

        Args:
            images: (B, 3, H, W), normalised as :attr:`image_input` says.
        """
        raise NotImplementedError(f"{type(self).__name__} has no patch embedding")

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """Apply the backbone's own final norm, where it fits this layer. By default nothing."""
        return features

    def forward(self, images: Tensor, layers: Sequence[int]) -> list[LayerFeatures]:
        """Finalized features of the given layers, computing nothing deeper than the deepest of them.

        Args:
            images: (B, 3, H, W), normalised as :attr:`image_input` says.
            layers: Indices into :attr:`layers`, in any order.
        """
        wanted, found = set(layers), {}
        for index, features in enumerate(self.iter_layers(images)):
            if index in wanted:
                found[index] = self.finalize(features, index)
            if len(found) == len(wanted):
                break
        return [found[layer] for layer in layers]

    def prepare(self, pixels: Tensor) -> Tensor:
        """Turn pixels in [0, 1] (B, 3, H, W) into this backbone's input: its size, its normalisation."""
        if pixels.shape[-2:] != self.image_input.size:
            pixels = F.interpolate(pixels, self.image_input.size, mode="bilinear", antialias=True)
        return (pixels - self._mean) / self._std
