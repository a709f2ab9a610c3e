"""Pooled features of a whole data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from leapcore.core.provider import LayerFeatureProvider


class Features(NamedTuple):
    """A data set as a backbone sees it.

    Attributes:
        vectors: (n, C), the last layer's finalized class token, or its mean token.
        labels: (n,).
    """

    vectors: Tensor
    labels: Tensor


@torch.no_grad()
def extract_features(
    provider: LayerFeatureProvider, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Features:
    """Run a backbone in eval mode over plain batches of bytes (B, 3, H, W) with labels."""
    was_training = provider.training
    provider.eval()
    vectors, labels = [], []
    try:
        for pixels, batch_labels in batches:
            images = provider.prepare(pixels.to(device, non_blocking=True).float() / 255)
            # A compiled backbone would be compiled anew for eval mode, and again for a smaller last batch.
            with torch.compiler.set_stance("eager_on_recompile"):
                (last,) = provider(images, [len(provider.layers) - 1])
            vectors.append(last.pooled.float())
            labels.append(batch_labels.to(device))
    finally:
        provider.train(was_training)
    return Features(torch.cat(vectors), torch.cat(labels))
