"""Transformers whose grid shrinks from stage to stage: timm's Swin (v1, v2), Hiera and PVT v2."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from leapcore import LayerFeatureProvider, LayerFeatures, LayerInfo, timm_image_input
from leapcore_backbones.chain import ChainProvider, Link, feature_info, stage_layer, stages
from leapcore_backbones.family import Sample, TimmFamily, final_norm, normalised_at_last_width


class SwinProvider(ChainProvider):
    """Windowed attention on maps (B, H, W, C).

    Args:
        model: A timm ``SwinTransformer`` or ``SwinTransformerV2``.
    """

    channels_last: ClassVar[bool] = True

    def links(self, model: Any) -> Iterator[Link]:
        """Name the chain."""
        yield Link("patch_embed")
        yield from stages(model, "layers")


class HieraProvider(LayerFeatureProvider):
    """Tokens in the order of their attention windows, yielded row by row.

    Args:
        model: A timm ``Hiera``.
    """

    def __init__(self, model: Any) -> None:
        stage_of = [index for index, depth in enumerate(_depths(model)) for _ in range(depth)]
        infos = [feature_info(model)[stage] for stage in stage_of]
        layers = [
            LayerInfo(f"blocks.{i}", info["num_chs"], info["reduction"]) for i, info in enumerate(infos)
        ]
        super().__init__(layers, timm_image_input(model))
        self.model = model

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each block."""
        model = self.model
        x = model.unroll(model._pos_embed(model.patch_embed(images)))
        for index, block in enumerate(model.blocks):
            x = block(x)
            rows = model.reroll(x, index)
            yield LayerFeatures(rows.flatten(1, 2), (rows.shape[1], rows.shape[2]))

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The head's norm, in the last stage, whose width it has."""
        return normalised_at_last_width(self, final_norm(self.model, "head.norm"), features, layer)


class PvtProvider(LayerFeatureProvider):
    """Blocks that take the grid as an argument, and a norm at the end of every stage.

    Args:
        model: A timm ``PyramidVisionTransformerV2``.
    """

    def __init__(self, model: Any) -> None:
        layers = [
            stage_layer(model, f"stages.{i}", f"stages.{i}.blocks.{j}")
            for i, stage in enumerate(model.stages)
            for j in range(len(stage.blocks))
        ]
        super().__init__(layers, timm_image_input(model))
        self.model = model

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each block."""
        x = self.model.patch_embed(images)  # (B, H, W, C); between stages (B, C, H, W)
        for stage in self.model.stages:
            x = x if stage.downsample is None else stage.downsample(x)
            grid = (x.shape[1], x.shape[2])
            x = x.flatten(1, 2)
            for block in stage.blocks:
                x = block(x, grid)
                yield LayerFeatures(x, grid)
            x = stage.norm(x).unflatten(1, grid).permute(0, 3, 1, 2).contiguous()

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The last stage's norm, within that stage."""
        last = f"stages.{len(self.model.stages) - 1}"
        if not self.layers[layer].name.startswith(f"{last}."):
            return features
        norm = final_norm(self.model, f"{last}.norm")
        return norm(features) if norm else features


def _depths(model: Any) -> list[int]:
    ends = [-1, *model.stage_ends]
    return [end - before for before, end in pairwise(ends)]


FAMILY = TimmFamily(
    "hierarchical",
    "attention on shrinking grids: Swin, Hiera, PVT v2",
    {
        "SwinTransformer": SwinProvider,
        "SwinTransformerV2": SwinProvider,
        "Hiera": HieraProvider,
        "PyramidVisionTransformerV2": PvtProvider,
    },
    modules=["swin_transformer", "swin_transformer_v2", "hiera", "pvt_v2"],
    samples=[
        Sample(
            "swin_tiny_patch4_window7_224",
            64,
            {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2), "window_size": 4},
        ),
        Sample(
            "swinv2_tiny_window8_256",
            64,
            {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2), "window_size": 4},
        ),
        Sample("hiera_tiny_224", 64, {"embed_dim": 24, "stages": (1, 1, 2, 1)}),
        Sample("pvt_v2_b0", 64, {"depths": (1, 1, 2, 1), "embed_dims": (8, 16, 40, 64)}),
    ],
)
