"""The provider that yields a backbone's layers, shallow to deep.

Shape letters: B images, N tokens of the grid, P prefix tokens, C channels, H and W rows and columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from leapcore.core.features import LayerFeatures, LayerInfo


class ImageInput(NamedTuple):
    """The images that a backbone was made for.

    Attributes:
        size: Height and width in pixels.
        mean: Mean per colour channel that is subtracted from pixels in [0, 1].
        std: Standard deviation per colour channel that they are divided by.

    Example:
        >>> ImageInput((224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).size
        (224, 224)
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class LayerFeatureProvider(nn.Module, ABC):
    """A backbone seen as a sequence of layers, shallow to deep, one per block.

    A subclass calls ``super().__init__(layers, image_input)``, keeps its network in the attribute ``model``
    and implements :meth:`iter_layers`.

    Attributes:
        model: The network, an ``nn.Module``; a layer's name is its block's path in there.
        layers: One :class:`LayerInfo` per block; the index into it names a layer everywhere.
        image_input: Size and normalisation that the backbone expects.
        embedding: The patch embedding that :meth:`embed` yields, None for a backbone without one.

    Example:
        >>> class Convolutions(LayerFeatureProvider):
        ...     def __init__(self):
        ...         layers = [LayerInfo(f"{i}", channels=8, stride=2 ** (i + 1)) for i in range(3)]
        ...         super().__init__(layers, ImageInput((32, 32), mean=(0.5,) * 3, std=(0.5,) * 3))
        ...         widths = [(3, 8), (8, 8), (8, 8)]
        ...         self.model = nn.Sequential(*(nn.Conv2d(*pair, 3, 2, padding=1) for pair in widths))
        ...
        ...     def iter_layers(self, images):
        ...         for block in self.model:
        ...             images = block(images)
        ...             yield LayerFeatures.from_nchw(images)
        >>> backbone = Convolutions()
        >>> images = backbone.prepare(torch.rand(2, 3, 40, 40))  # brought to its size and normalised
        >>> (second,) = backbone(images, [1])  # the third convolution does not run
        >>> images.shape, second.tokens.shape, second.grid
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 64, 8]), (8, 8))
    """

    embedding: LayerInfo | None = None
    model: Any
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

        Once no more layers are taken, nothing deeper runs: a generator that yields after each block does so.
        A network that cannot be paused may compute all layers at once, if it overrides :meth:`features`.

        Args:
            images: (B, 3, H, W), normalised as :attr:`image_input` says.
        """

    def features(self, images: Tensor, layers: Sequence[int]) -> list[LayerFeatures]:
        """Raw features of some layers, computing nothing deeper than the deepest of them.

        Args:
            images: (B, 3, H, W), normalised as :attr:`image_input` says.
            layers: Indices into :attr:`layers`, in any order.
        """
        indices, by_index = set(layers), {}
        for index, features in enumerate(self.iter_layers(images)):
            if index in indices:
                by_index[index] = features
            if len(by_index) == len(indices):
                break
        return [by_index[index] for index in layers]

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """Apply the backbone's own final norm, where it fits this layer.

        By default, and where it does not fit, the very same object is returned.

        Args:
            features: The layer's raw features.
            layer: Index into :attr:`layers`.
        """
        return features

    def forward(self, images: Tensor, layers: Sequence[int]) -> list[LayerFeatures]:
        """Finalized features of some layers; arguments as for :meth:`features`."""
        raw = self.features(images, layers)
        return [self.finalize(features, layer) for features, layer in zip(raw, layers, strict=True)]

    def embed(self, images: Tensor) -> LayerFeatures:
        """The image's patches, projected: no position, no block yet. Only with an :attr:`embedding`.

        Args:
            images: (B, 3, H, W), normalised as :attr:`image_input` says.
        """
        raise NotImplementedError(f"{type(self).__name__} has no patch embedding")

    def prepare(self, pixels: Tensor) -> Tensor:
        """Turn pixels in [0, 1] (B, 3, H, W) into this backbone's input: its size, its normalisation."""
        if pixels.shape[-2:] != self.image_input.size:
            pixels = F.interpolate(pixels, self.image_input.size, mode="bilinear", antialias=True)
        return (pixels - self._mean) / self._std

    def example_input(self, batch_size: int = 1) -> Tensor:
        """An empty input of :meth:`iter_layers`, to count and check with: (B, 3, H, W) of zeros.

        A tower that reads something else than images, such as text, returns that instead.
        """
        return torch.zeros(batch_size, len(self.image_input.mean), *self.image_input.size)

    def block(self, layer: int) -> nn.Module:
        """The module whose output a layer is."""
        block: nn.Module = self.model.get_submodule(self.layers[layer].name)
        return block

    def checkpoint_gradients(self) -> None:
        """From now on recompute blocks in the backward pass instead of keeping their activations.

        That costs one more forward pass and saves most of the memory.
        """
        for layer in range(len(self.layers)):
            block: Any = self.block(layer)
            block.forward = partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, block), **kwargs)


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms saw this batch already: their running statistics must not see it twice."""
    buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
    try:
        yield
    finally:  # a recomputation is broken off as soon as it has what is needed
        for name, buffer in block.named_buffers():
            buffer.copy_(buffers[name])
