"""Models that are a chain of modules, most of them grouped in stages: most CNNs, Swin, many hybrids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from leapcore import LayerFeatureProvider, LayerFeatures, LayerInfo, timm_image_input
from leapcore_backbones.family import final_norm, normalised_at_last_width


class Link(NamedTuple):
    """A module of the chain.

    Attributes:
        path: Where it is in the model.
        layer: What is known of its output, None if that is no layer.
    """

    path: str
    layer: LayerInfo | None = None


class ChainProvider(LayerFeatureProvider):
    """Runs the links one after the other, and yields where one is a layer.

    Args:
        model: A timm model.

    Attributes:
        channels_last: Whether feature maps are (B, H, W, C) instead of (B, C, H, W).
    """

    channels_last: ClassVar[bool] = False

    def __init__(self, model: Any) -> None:
        self._links = list(self.links(model))
        super().__init__([link.layer for link in self._links if link.layer], timm_image_input(model))
        self.model = model

    def links(self, model: Any) -> Iterator[Link]:
        """Name the chain: by default a stem, and stages of blocks behind a downsampling."""
        yield Link("stem")
        yield from stages(model, "stages")

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """Yield after each layer of the chain."""
        x, grid = images, images.shape[-2:]
        for link in self._links:
            x = self.model.get_submodule(link.path)(x)
            if x.ndim == 4:
                grid = x.shape[1:3] if self.channels_last else x.shape[-2:]
            if link.layer:
                yield self._features(x, (grid[0], grid[1]))

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The model's final norm, in the last stage, whose width it has."""
        norm = final_norm(self.model, "norm", "norm_pre", "head.norm")
        return normalised_at_last_width(self, norm, features, layer)

    def _features(self, x: Tensor, grid: tuple[int, int]) -> LayerFeatures:
        if x.ndim == 3:  # tokens, in the order of the map that they were made from
            return LayerFeatures(x, grid)
        return LayerFeatures(x.flatten(1, 2), grid) if self.channels_last else LayerFeatures.from_nchw(x)


def stages(model: Any, path: str, *, before: tuple[str, ...] = ("downsample",)) -> Iterator[Link]:
    """The links of stages that have blocks, and modules before the blocks.

    Args:
        model: A timm model.
        path: The attribute that holds its stages.
        before: A stage's modules that run before its blocks, in order.
    """
    for index, stage in enumerate(getattr(model, path)):
        stage_path = f"{path}.{index}"
        yield from (Link(f"{stage_path}.{name}") for name in before if getattr(stage, name, None) is not None)
        yield from blocks(model, stage_path, f"{stage_path}.blocks")


def blocks(model: Any, stage: str, container: str) -> Iterator[Link]:
    """The links of a stage's blocks; modules that only reshape are none."""
    for name, block in model.get_submodule(container).named_children():
        path = f"{container}.{name}"
        has_weights = any(True for _ in block.parameters())
        yield Link(path, stage_layer(model, stage, path) if has_weights else None)


def stage_layer(model: Any, stage: str, path: str) -> LayerInfo:
    """timm's entry for a stage's output, as that of the module at ``path``."""
    info = next(info for info in feature_info(model) if info["module"] == stage)
    return LayerInfo(path, info["num_chs"], info["reduction"])


def feature_info(model: Any) -> list[dict[str, Any]]:
    """timm's table of a model's stages."""
    infos: list[dict[str, Any]] = getattr(model.feature_info, "info", model.feature_info)
    return infos


def with_final_convolution(model: Any, links: Iterator[Link]) -> Iterator[Link]:
    """The links, and the model's ``final_conv`` between its last stage and its head.

    A convolution is a layer too; an activation alone belongs to the last block.
    """
    *before, last = links
    if isinstance(model.final_conv, nn.Identity):
        yield from (*before, last)
    elif any(True for _ in model.final_conv.parameters()):
        reduction = feature_info(model)[-1]["reduction"]
        yield from (*before, last, Link("final_conv", LayerInfo("final_conv", model.num_features, reduction)))
    else:
        yield from (*before, Link(last.path), Link("final_conv", last.layer))
