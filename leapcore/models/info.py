"""Facts about a run's models, for its summary: sizes, shapes, costs."""

from __future__ import annotations

from leapcore.core.layer_check import layer_shapes
from leapcore.core.provider import LayerFeatureProvider
from leapcore.plugins.events import ModelFacts
from leapcore.spec import BackboneSpec


def model_facts(spec: BackboneSpec, provider: LayerFeatureProvider, macs: int) -> ModelFacts:
    """A model's facts, taken before an engine partitions its weights.

    Args:
        spec: The model's section of the spec.
        provider: The backbone.
        macs: Multiply-adds of one image through all layers.
    """
    shapes, images = layer_shapes(provider), provider.image_input
    architecture = getattr(provider.model, "pretrained_cfg", {}).get("architecture")
    prefix = shapes[-1].prefix_tokens
    return ModelFacts(
        name=spec.model or architecture or spec.weights,
        layers=len(provider.layers),
        parameters=sum(p.numel() for p in provider.parameters()),
        macs=macs,
        weights=spec.weights,
        widths=(shapes[0].channels, shapes[-1].channels),
        grids=(shapes[0].grid, shapes[-1].grid),
        tokens=shapes[-1].tokens.shape[1],
        prefix_tokens=0 if prefix is None else prefix.shape[1],
        image_size=images.size,
        mean=images.mean,
        std=images.std,
    )
