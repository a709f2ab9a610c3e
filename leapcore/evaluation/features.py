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
    half = (torch.bfloat16, torch.float16)  # in which a frozen teacher's matrices may be
    kind = next((weight.dtype for weight in provider.parameters() if weight.dtype in half), None)
    provider.eval()
    vectors, labels = [], []
    try:
        for pixels, batch_labels in batches:
            images = provider.prepare(pixels.to(device, non_blocking=True).float() / 255)
            # A compiled backbone would be compiled anew for eval mode, and again for a smaller last batch.
            stance = torch.compiler.set_stance("eager_on_recompile")
            with stance, torch.autocast(device.type, kind, enabled=kind is not None):
                (last,) = provider(images, [len(provider.layers) - 1])
            vectors.append(last.pooled.float())
            labels.append(batch_labels.to(device))
    finally:
        provider.train(was_training)
    return Features(torch.cat(vectors), torch.cat(labels))
