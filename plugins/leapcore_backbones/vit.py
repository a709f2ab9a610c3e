"""Plain vision transformers: one width and one grid from the first block to the last.

timm's ``VisionTransformer`` (ViT, DeiT, DINOv2 with and without registers, CLIP, SigLIP), ``Eva`` (EVA,
EVA-02, DINOv3, Perception Encoder) and ``Beit``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from leapcore import LayerFeatureProvider, LayerFeatures, LayerInfo, LeapcoreError, timm_image_input
from leapcore_backbones.family import Sample, TimmFamily, final_norm


class VitProvider(LayerFeatureProvider):
    """One layer per transformer block.

    Args:
        model: A timm ``VisionTransformer``.
    """

    def __init__(self, model: Any) -> None:
        stride = model.patch_embed.feat_ratio()
        stride = stride if isinstance(stride, int) else stride[0]
        layers = [LayerInfo(f"blocks.{i}", model.embed_dim, stride) for i in range(len(model.blocks))]
        super().__init__(layers, timm_image_input(model))
        if _is_one_convolution(model.patch_embed):
            self.embedding = LayerInfo("patch_embed", model.embed_dim, stride)
        self.model = model

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each block, as timm's ``forward_features`` runs them."""
        yield from self._run_blocks(self.model.patch_embed(images), self._grid(images))

    def embed(self, images: Tensor) -> LayerFeatures:
        """The output of the first convolution."""
        return LayerFeatures.from_nchw(self.model.patch_embed.proj(images))

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The model's final norm, on the tokens of any block (LEAP)."""
        norm = final_norm(self.model, "norm", "fc_norm")
        return norm(features) if norm else features

    def _run_blocks(self, patches: Tensor, grid: tuple[int, int]) -> Iterator[LayerFeatures]:
        x, extras = self._positioned(patches)
        for block, extra in zip(self.model.blocks, extras, strict=True):
            x = block(x, **extra)
            yield self._split(x, grid)

    def _positioned(self, patches: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """All tokens with their positions, and each block's further arguments."""
        model = self.model
        x = model.norm_pre(model.patch_drop(model._pos_embed(patches)))
        return x, [{}] * len(model.blocks)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        grid: tuple[int, int] = self.model.patch_embed.dynamic_feat_size(images.shape[-2:])
        return grid

    def _split(self, x: Tensor, grid: tuple[int, int]) -> LayerFeatures:
        count = self.model.num_prefix_tokens
        # Registers alone, without a class token, say nothing about the image as a whole.
        prefix = x[:, :count] if getattr(self.model, "cls_token", None) is not None else None
        return LayerFeatures(x[:, count:], grid, prefix)


class EvaProvider(VitProvider):
    """Blocks that take the rotary positions as an argument.

    Args:
        model: A timm ``Eva``.
    """

    def _positioned(self, patches: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        model = self.model
        x, rope = model._pos_embed(patches)
        own_rope_each = getattr(model, "rope_mixed", False) and rope is not None
        ropes = rope if own_rope_each else [rope] * len(model.blocks)
        return model.norm_pre(x), [{"rope": rope} for rope in ropes]


class BeitProvider(VitProvider):
    """Blocks that take the relative positions as an argument, where they share them.

    Args:
        model: A timm ``Beit``.
    """

    def _positioned(self, patches: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        model = self.model
        x = torch.cat((model.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        x = model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)
        bias = None if model.rel_pos_bias is None else model.rel_pos_bias()
        return x, [{"shared_rel_pos_bias": bias}] * len(model.blocks)


def _is_one_convolution(patch_embedding: Any) -> bool:
    """Whether patches are embedded by one convolution; hybrids have a network in its place."""
    from timm.layers import PatchEmbed

    return isinstance(patch_embedding, PatchEmbed)


def _plain(model: Any) -> VitProvider:
    """A ViT without a network before its blocks, whose layers would be missing here."""
    if hasattr(getattr(model.patch_embed, "backbone", None), "stages"):
        raise LeapcoreError(
            f"{model.pretrained_cfg['architecture']} is a CNN followed by a ViT",
            "Its family is backbone: hybrid, where the CNN's blocks are layers too.",
        )
    return VitProvider(model)


_SMALL = {"depth": 3, "embed_dim": 48, "num_heads": 2}

FAMILY = TimmFamily(
    "vit",
    "one width, one grid: ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP, EVA, BEiT",
    {"VisionTransformer": _plain, "Eva": EvaProvider, "Beit": BeitProvider},
    modules=["vision_transformer", "deit", "eva", "beit"],
    samples=[
        Sample("vit_tiny_patch16_224", 64, _SMALL),
        Sample("vit_small_patch14_dinov2", 56, _SMALL),
        Sample("vit_small_patch14_reg4_dinov2", 56, _SMALL),
        Sample("vit_giant_patch14_dinov2", 56, _SMALL),  # SwiGLU
        Sample("vit_medium_patch16_reg4_gap_256", 64, _SMALL),  # registers, no class token
        Sample("vit_small_patch16_dinov3", 64, _SMALL),
        Sample("deit_tiny_distilled_patch16_224", 64, _SMALL),
        Sample("deit3_small_patch16_224", 64, _SMALL),
        Sample("vit_base_patch16_clip_224", 64, _SMALL),
        Sample("vit_base_patch16_siglip_224", 64, _SMALL),
        Sample("eva_giant_patch14_224", 56, {**_SMALL, "mlp_ratio": 2}),
        Sample("eva02_tiny_patch14_224", 56, _SMALL),
        Sample("vit_pe_core_tiny_patch16_384", 64, _SMALL),  # Perception Encoder
        Sample("beit_base_patch16_224", 64, _SMALL),
        Sample("beitv2_base_patch16_224", 64, _SMALL),
    ],
)
