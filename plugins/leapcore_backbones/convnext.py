"""Convolutional networks: timm's ``ConvNeXt`` (v1, v2, DINOv3's), ``ResNet`` and ``RegNet``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from leapcore_backbones.chain import ChainProvider, Link, blocks, with_final_convolution
from leapcore_backbones.family import Sample, TimmFamily


class ResNetProvider(ChainProvider):
    """A stem of four modules, and four groups of blocks.

    Args:
        model: A timm ``ResNet``.
    """

    def links(self, model: Any) -> Iterator[Link]:
        """Name the chain."""
        yield from map(Link, ("conv1", "bn1", "act1", "maxpool"))
        for index in range(1, 5):
            yield from blocks(model, f"layer{index}", f"layer{index}")


class RegNetProvider(ChainProvider):
    """Four stages whose children are the blocks.

    Args:
        model: A timm ``RegNet``.
    """

    def links(self, model: Any) -> Iterator[Link]:
        """Name the chain."""
        yield Link("stem")
        stages = (blocks(model, f"s{index}", f"s{index}") for index in range(1, 5))
        yield from with_final_convolution(model, chain.from_iterable(stages))


FAMILY = TimmFamily(
    "convnext",
    "convolutions: ConvNeXt, ResNet, RegNet",
    {"ConvNeXt": ChainProvider, "ResNet": ResNetProvider, "RegNet": RegNetProvider},
    modules=["convnext", "resnet", "regnet", "resnest", "res2net", "sknet"],
    samples=[
        Sample("convnext_tiny", 64, {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}),
        Sample("convnextv2_tiny", 64, {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}),
        Sample("resnet18", 64, {"layers": [1, 1, 2, 1], "channels": [16, 24, 32, 48]}),
        Sample("resnet50", 64, {"layers": [1, 1, 2, 1], "channels": [16, 24, 32, 48]}),
        Sample("regnetx_002", 64),
        Sample("regnety_002", 64),
    ],
)
