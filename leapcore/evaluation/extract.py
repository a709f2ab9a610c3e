"""Pooled features of a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from leapcore.core.features import LayerFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import DataError


class Features(NamedTuple):
    """One vector and one label per image of a data set.

    Shape letters: n images, C channels.

    Attributes:
        vectors: (n, C), the last layer's finalized class token, or its mean token.
        labels: (n,), the number of each image's class.

    Example:
        >>> import torch
        >>> from leapcore import Features
        >>> features = Features(vectors=torch.eye(3), labels=torch.tensor([0, 1, 1]))
        >>> features.labels.unique().tolist()
        [0, 1]
    """

    vectors: Tensor
    labels: Tensor


def extract_features(
    provider: LayerFeatureProvider,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | None = None,
) -> Features:
    """Run a backbone in eval mode over images with labels.

    Args:
        provider: The backbone; its mode is the same afterwards.
        batches: Images (B, 3, H, W), as bytes or as floats in [0, 1], and labels (B,).
        device: Where to compute; where the backbone is if None.

    Raises:
        DataError: There is no image.

    Example:
        >>> import torch
        >>> from leapcore import build_backbone, extract_features
        >>> options = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 1}
        >>> vit = build_backbone("vit", model="vit_tiny_patch16_224", image_size=16, options=options)
        >>> batches = [(torch.rand(2, 3, 16, 16), torch.tensor([0, 1])) for _ in range(3)]
        >>> vectors, labels = extract_features(vit, batches)
        >>> vectors.shape, labels.tolist()
        (torch.Size([6, 12]), [0, 1, 0, 1, 0, 1])
    """
    device = device or next(provider.parameters()).device
    vectors, labels = [], []
    with evaluating(provider):
        for pixels, batch_labels in batches:
            vectors.append(pooled_features(provider, pixels, device, len(provider.layers) - 1))
            labels.append(batch_labels.to(device))
    if not labels:
        raise DataError("there is no image to evaluate on", "Check data.source, data.train and data.val.")
    return Features(torch.cat(vectors), torch.cat(labels))


@torch.no_grad()
def pooled_features(
    provider: LayerFeatureProvider, pixels: Tensor, device: torch.device, layer: int
) -> Tensor:
    """One vector per image (B, C) in float32; no layer behind this one is computed.

    Args:
        provider: The backbone.
        pixels: (B, 3, H, W), as bytes or as floats in [0, 1].
        device: Where to compute.
        layer: Index of the layer.
    """
    pixels = pixels.to(device, non_blocking=True)
    images = provider.prepare(pixels if pixels.is_floating_point() else pixels.float() / 255)
    with own_precision(provider, device):
        features: LayerFeatures = provider(images, [layer])[0]
    return features.pooled.float()


@contextmanager
def evaluating(provider: LayerFeatureProvider) -> Iterator[None]:
    """A backbone in eval mode, as a context; after it, its mode is what it was."""
    was_training = provider.training
    provider.eval()
    try:
        # A compiled backbone would be compiled anew for eval mode, and again for a smaller last batch.
        with torch.compiler.set_stance("eager_on_recompile"):
            yield
    finally:
        provider.train(was_training)


def own_precision(provider: LayerFeatureProvider, device: torch.device) -> torch.autocast:
    """A context in the precision that a backbone's weights ask for: autocast where some have 16 bits."""
    half = (torch.bfloat16, torch.float16)  # in which a frozen teacher's matrices may be
    kind = next((weight.dtype for weight in provider.parameters() if weight.dtype in half), None)
    return torch.autocast(device.type, kind, enabled=kind is not None)
