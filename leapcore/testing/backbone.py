"""The contract of a backbone: what everything else in leapcore relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from leapcore.core.provider import LayerFeatureProvider
from leapcore.models.build import call_factory
from leapcore.testing.backbone_rules import IMAGES, RULES, BackboneTrial
from leapcore.testing.report import ContractReport, check_rules, subject_of


def check_backbone(
    factory: Callable[..., Any],
    image_size: int,
    *,
    model: str | None = None,
    weights: str = "none",
    options: Mapping[str, Any] | None = None,
) -> ContractReport:
    """Check that a backbone keeps every rule that leapcore relies on.

    Args:
        factory: What the plugin registers: ``build(*, model, weights, image_size, options)``.
        image_size: Side of the images in pixels; small ones make the check quick.
        model: As a spec would name it.
        weights: Likewise.
        options: Likewise; use them to make the model small.

    Returns:
        Every rule, with the time that its check took.

    Raises:
        ContractError: Rules are broken; it names each, what was seen, and the remedy.

    What ``torch.compile`` compiled before is forgotten; random states are left as they are.
    """
    report = report_on_backbone(factory, image_size, model=model, weights=weights, options=options)
    report.require()
    return report


def report_on_backbone(
    factory: Callable[..., Any],
    image_size: int,
    *,
    model: str | None = None,
    weights: str = "none",
    options: Mapping[str, Any] | None = None,
) -> ContractReport:
    """The same without raising; arguments as for :func:`check_backbone`."""

    def build(weights: str = weights) -> LayerFeatureProvider:
        arguments = {"model": model, "weights": weights, "image_size": image_size}
        return call_factory(factory, {**arguments, "options": dict(options or {})})

    return check_rules(model or subject_of(factory), RULES, lambda: _trial(build))


def _trial(build: Callable[..., LayerFeatureProvider]) -> BackboneTrial:
    provider = build()
    example = provider.example_input(IMAGES)
    images = torch.randn_like(example) if example.is_floating_point() else example
    return BackboneTrial(build, provider.eval(), images)
