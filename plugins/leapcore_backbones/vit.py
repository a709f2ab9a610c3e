"""Plain vision transformers: any timm ``VisionTransformer``.

DeiT, DINOv2 with and without registers, CLIP and SigLIP image towers among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from leapcore import (
    LayerFeatureProvider,
    LayerFeatures,
    LayerInfo,
    LeapcoreError,
    create_timm_model,
    timm_image_input,
)


class VitProvider(LayerFeatureProvider):
    """One layer per transformer block.

    Args:
        model: A timm ``VisionTransformer``.
    """

    def __init__(self, model: Any) -> None:
        size = model.patch_embed.img_size
        stride = size[0] // model.patch_embed.grid_size[0]
        layers = [LayerInfo(f"blocks.{i}", model.embed_dim, stride) for i in range(len(model.blocks))]
        super().__init__(layers, timm_image_input(model, size))
        if isinstance(model.patch_embed, _plain_patch_embedding()):
            self.embedding = LayerInfo("patch_embed", model.embed_dim, stride)
        self.model = model

    @classmethod
    def build(
        cls, *, model: str | None, weights: str, image_size: int, options: dict[str, Any]
    ) -> VitProvider:
        """Build the model for square images of ``image_size`` pixels."""
        network = create_timm_model(model, weights, options, image_size=image_size)
        from timm.models.vision_transformer import VisionTransformer

        if not isinstance(network, VisionTransformer):
            raise LeapcoreError(
                f"{model or weights} is a {type(network).__name__}, not a plain vision transformer",
                "Name a timm VisionTransformer (vit_*, deit_*, …), or the backbone family that fits it.",
            )
        return cls(network)

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each block, as timm's ``forward_features`` runs them."""
        model = self.model
        grid = model.patch_embed.dynamic_feat_size(images.shape[-2:])
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        for block in model.blocks:
            x = block(x)
            yield self._split(x, grid)

    def embed(self, images: Tensor) -> LayerFeatures:
        """The output of the first convolution."""
        return LayerFeatures.from_nchw(self.model.patch_embed.proj(images))

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The model's final norm, on the tokens of any block (LEAP)."""
        return features.map(self.model.norm)

    def _split(self, x: Tensor, grid: tuple[int, int]) -> LayerFeatures:
        count = self.model.num_prefix_tokens
        # Registers alone, without a class token, say nothing about the image as a whole.
        prefix = x[:, :count] if self.model.has_class_token else None
        return LayerFeatures(x[:, count:], grid, prefix)


def _plain_patch_embedding() -> type[Any]:
    """One convolution; the embedding of hybrids is a network of its own."""
    from timm.layers import PatchEmbed

    plain: type[Any] = PatchEmbed
    return plain
