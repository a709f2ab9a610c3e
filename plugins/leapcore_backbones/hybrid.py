"""Convolution and attention in one network.

timm's CoAtNet and MaxViT, EfficientFormer (v1, v2), FastViT, MobileViT, LeViT, and ViTs on top of a ResNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from leapcore import LayerFeatures, LayerInfo, LeapcoreError
from leapcore_backbones.chain import ChainProvider, Link, blocks, feature_info, stages, with_final_convolution
from leapcore_backbones.family import Sample, TimmFamily
from leapcore_backbones.vit import VitProvider


class FastVitProvider(ChainProvider):
    """Stages that may add positions before their blocks, and a final convolution.

    Args:
        model: A timm ``FastVit``.
    """

    def links(self, model: Any) -> Iterator[Link]:
        """Name the chain."""
        yield Link("stem")
        links = stages(model, "stages", before=("downsample", "pos_emb"))
        yield from with_final_convolution(model, links)


class ByobProvider(ChainProvider):
    """Stages whose children are the blocks, and a final convolution.

    Args:
        model: A timm ``ByobNet``, such as MobileViT.
    """

    def links(self, model: Any) -> Iterator[Link]:
        """Name the chain."""
        yield Link("stem")
        yield from with_final_convolution(model, self._blocks(model))

    def _blocks(self, model: Any) -> Iterator[Link]:
        for index, stage in enumerate(model.stages):
            for name, block in stage.named_children():
                path = f"stages.{index}.{name}"
                reduction = feature_info(model)[index]["reduction"]
                yield Link(path, LayerInfo(path, _output_channels(block), reduction))


class LevitProvider(ChainProvider):
    """Tokens whose grid shrinks in the downsampling attention between stages.

    Args:
        model: A timm ``Levit`` or ``LevitDistilled``.
    """

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each block."""
        model = self.model
        x = model.stem(images)
        grid = (x.shape[-2], x.shape[-1])
        x = x if model.use_conv else x.flatten(2).transpose(1, 2)
        for index, stage in enumerate(model.stages):
            x = stage.downsample(x)
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2) if index else grid
            for block in stage.blocks:
                x = block(x)
                yield self._features(x, grid)


class ResNetVitProvider(VitProvider):
    """A ResNet's blocks, then a transformer's on the ResNet's last map.

    A smaller network in the ResNet's place, such as a stem alone, belongs to the transformer's first block.

    Args:
        model: A timm ``VisionTransformer`` whose patch embedding is a network.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        backbone = model.patch_embed.backbone
        self._convolutions = [
            link
            for index in range(len(getattr(backbone, "stages", ())))
            for link in blocks(backbone, f"stages.{index}", f"stages.{index}.blocks")
        ]
        shallow = [link.layer for link in self._convolutions]
        self.layers = (
            *(layer._replace(name=f"patch_embed.backbone.{layer.name}") for layer in shallow if layer),
            *self.layers,
        )

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each block of either network."""
        if not self._convolutions:
            yield from super().iter_layers(images)
            return
        embedding = self.model.patch_embed
        x = embedding.backbone.stem(images)
        for link in self._convolutions:
            x = embedding.backbone.get_submodule(link.path)(x)
            yield LayerFeatures.from_nchw(x)
        x = embedding.proj(embedding.backbone.norm(x))
        yield from self._run_blocks(x.flatten(2).transpose(1, 2), (x.shape[-2], x.shape[-1]))

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The transformer's final norm, on the tokens of its own blocks."""
        if layer < len(self._convolutions):
            return features
        return super().finalize(features, layer)


def _on_resnet(model: Any) -> ResNetVitProvider:
    if not hasattr(model.patch_embed, "backbone"):
        raise LeapcoreError(
            f"{model.pretrained_cfg['architecture']} is a plain ViT, without convolutions before its blocks",
            "Its family is backbone: vit.",
        )
    return ResNetVitProvider(model)


def _output_channels(block: Any) -> int:
    """The width that a block of a ByobNet yields: that of its last convolution."""
    convolutions = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
    channels: int = convolutions[-1].out_channels
    return channels


_STAGES = {"embed_dims": (16, 24, 32, 48), "depths": (1, 1, 2, 2)}
_NARROW = {"embed_dim": (32, 32, 64, 64), "depths": (1, 1, 2, 1), "stem_width": 16}

FAMILY = TimmFamily(
    "hybrid",
    "both: CoAtNet, MaxViT, EfficientFormer, FastViT, MobileViT, LeViT, ResNet + ViT",
    {
        "MaxxVit": ChainProvider,
        "EfficientFormer": ChainProvider,
        "EfficientFormerV2": ChainProvider,
        "FastVit": FastVitProvider,
        "ByobNet": ByobProvider,
        "Levit": LevitProvider,
        "VisionTransformer": _on_resnet,
    },
    modules=[
        "maxxvit",
        "efficientformer",
        "efficientformer_v2",
        "fastvit",
        "mobilevit",
        "levit",
        "vision_transformer_hybrid",
    ],
    samples=[
        Sample("coatnet_0_rw_224", 64, _NARROW),
        Sample("maxvit_tiny_tf_224", 64, _NARROW),
        Sample("efficientformer_l1", 224, {**_STAGES, "num_vit": 1}),
        Sample("efficientformerv2_s0", 64, _STAGES),
        Sample("fastvit_t8", 64, {"embed_dims": (16, 16, 32, 32), "layers": (1, 1, 2, 1)}),
        Sample("fastvit_sa12", 64, {"embed_dims": (32, 32, 32, 64), "layers": (1, 1, 2, 1)}),
        Sample("mobilevit_xxs", 64),
        Sample("mobilevitv2_050", 64),
        Sample("levit_128s", 64, {"depth": (1, 2, 1)}),
        Sample("levit_conv_128s", 64, {"depth": (1, 2, 1)}),
        Sample("vit_small_r26_s32_224", 64, {"depth": 2, "embed_dim": 48, "num_heads": 2}),
        Sample("vit_base_r50_s16_224", 64, {"depth": 2, "embed_dim": 48, "num_heads": 2}),
    ],
)
