"""Whatever else timm has, stage by stage, through its ``forward_intermediates``.

Coarser than the other families: a stage can be half of a model. Models that compute everything whatever is
asked for are recognised and refused, since a curriculum could not save anything with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leapcore import (
    LayerFeatureProvider,
    LayerFeatures,
    LayerInfo,
    LeapcoreError,
    on_meta,
    timm_image_input,
)
from leapcore_backbones.chain import feature_info
from leapcore_backbones.family import Sample, TimmFamily, final_norm, normalised_at_last_width


class IntermediatesProvider(LayerFeatureProvider):
    """One layer per entry of timm's ``feature_info``: a stage, or a block of models without stages.

    Args:
        model: A timm model with ``forward_intermediates``.

    Raises:
        LeapcoreError: It has none, or cannot stop early.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "forward_intermediates"):
            raise _refused(model, "has no forward_intermediates in timm")
        layers = {index: layer for index, layer in enumerate(_layers(model)) if layer is not None}
        if not layers:
            raise _refused(model, "has layers in timm's table that are none of its modules")
        super().__init__(tuple(layers.values()), timm_image_input(model))
        self.model = model
        self._indices = tuple(layers)  # as forward_intermediates counts them
        self._keep_what_costs_more()

    def iter_layers(self, images: Tensor) -> Iterator[LayerFeatures]:
        """All layers, computed together."""
        yield from self.features(images, range(len(self.layers)))

    def features(self, images: Tensor, layers: Sequence[int]) -> list[LayerFeatures]:
        """These layers, and nothing deeper is computed."""
        rising = sorted(set(layers))
        indices = [self._indices[layer] for layer in rising]
        maps = self.model.forward_intermediates(
            images, indices=indices, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        features = {layer: LayerFeatures.from_nchw(x) for layer, x in zip(rising, maps, strict=True)}
        return [features[layer] for layer in layers]

    def finalize(self, features: LayerFeatures, layer: int) -> LayerFeatures:
        """The model's final norm, where it has one that timm applies to the last layer's width."""
        norm = final_norm(self.model, "norm", "norm_pre", "head.norm")
        if norm is None or _width(norm.module) != self.layers[-1].channels:
            return features
        return normalised_at_last_width(self, norm, features, layer)

    def _keep_what_costs_more(self) -> None:
        """Leave out layers that run no further module with weights: poolings, parallel branches."""
        calls = [0, *self._calls()]
        kept = [layer for layer in range(len(self.layers)) if calls[layer + 1] > max(calls[: layer + 1])]
        if len(kept) == 1 < len(self.layers):
            raise _refused(self.model, "runs all its layers in timm, whichever is asked for")
        self.layers = tuple(self.layers[layer] for layer in kept)
        self._indices = tuple(self._indices[layer] for layer in kept)

    @torch.no_grad()
    def _calls(self) -> list[int]:
        """How many modules with weights run until each layer, counted on a copy without arithmetic."""
        empty, ran = on_meta(self).eval(), list[nn.Module]()
        for module in empty.model.modules():
            if any(True for _ in module.parameters(recurse=False)):
                module.register_forward_hook(lambda module, *_: ran.append(module))
        calls, images = [], self.example_input().to("meta")
        for layer in range(len(self.layers)):
            ran.clear()
            try:
                empty.features(images, [layer])
            # A model can fail in any way on images that it was not made for.
            except Exception as error:
                size = " x ".join(map(str, self.image_input.size))
                raise LeapcoreError(
                    f"{self.model.pretrained_cfg['architecture']} cannot be run on images of {size} pixels "
                    f"on the meta device: {type(error).__name__}: {error}",
                    "Try another image size (options.img_size), or another model.",
                ) from error
            calls.append(len(ran))
        return calls


def _layers(model: nn.Module) -> Iterator[LayerInfo | None]:
    """The entries of ``feature_info``; None for one that names no module, as some do."""
    modules = dict(model.named_modules())
    for index, info in enumerate(feature_info(model)):
        paths = (info["module"], f"stages.{index}", f"blocks.{index}")
        path = next((path for path in paths if path in modules), None)
        yield None if path is None else LayerInfo(path, info["num_chs"], info["reduction"])


def _width(norm: nn.Module) -> int | None:
    """How many channels a norm is made for."""
    weight = getattr(norm, "weight", None)
    return None if weight is None else len(weight)


def _refused(model: Any, why: str) -> LeapcoreError:
    return LeapcoreError(
        f"{model.pretrained_cfg['architecture']} {why}: a curriculum cannot use it",
        "Take another model, or write a provider for it: leapcore plugins new NAME.",
    )


FAMILY = TimmFamily(
    "timm",
    "most other models of timm, stage by stage",
    {"object": IntermediatesProvider},  # whatever the class
    modules=[],
    samples=[
        Sample("mobilenetv3_small_050", 64),
        Sample("edgenext_xx_small", 64),
        Sample("inception_next_atto", 64, {"depths": (1, 1, 2, 1)}),
        Sample("xcit_nano_12_p16_224", 64, {"depth": 3}),
    ],
)
