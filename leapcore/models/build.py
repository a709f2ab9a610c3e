"""Backbones by family: building and checking one, and the family of a model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leapcore.core.layer_check import check_layers
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import LeapcoreError, PluginError, describe_error
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import BackboneSpec

logger = logging.getLogger(__name__)

FALLBACK = "timm"  # the family that takes what no other lists


def build_backbone(
    family: str,
    *,
    image_size: int,
    model: str | None = None,
    weights: str | Path = "none",
    options: dict[str, Any] | None = None,
) -> LayerFeatureProvider:
    """Build a backbone and check its layers against their description.

    It comes in training mode, with gradients; of a teacher: ``.eval().requires_grad_(False)``.

    Args:
        family: As plugins register it: ``"vit"``, ``"convnext"``, … (``leapcore backbones``).
        image_size: Side of the images in pixels.
        model: Its name within the family, such as timm's; None where ``weights`` names it.
        weights: ``"none"`` (random), ``"pretrained"`` (a download), a weights file, a folder in timm's
            ``local-dir`` format, such as a run's ``student/``, or ``"asset:<name>"``.
        options: Further arguments of the model, such as ``{"depth": 6}``.

    Raises:
        UnknownNameError: No plugin registers the family.
        PluginError: The family's plugin breaks a rule; it is named.
        LeapcoreError: The backbone cannot be built like this.

    Example:
        >>> import torch
        >>> teacher = build_backbone("vit", weights="asset:digits-vit", image_size=32).eval()
        >>> len(teacher.layers), teacher.layers[0]
        (12, LayerInfo(name='blocks.0', channels=72, stride=8))
        >>> (last,) = teacher(torch.zeros(1, 3, 32, 32), [11])
        >>> last.tokens.shape
        torch.Size([1, 16, 72])
    """
    plugins = installed_plugins()
    arguments = {"model": model, "weights": str(weights), "image_size": image_size, "options": options or {}}
    factory = plugins.get("backbones", family)
    try:
        provider = _checked(factory, arguments)
    except PluginError as error:
        owner = plugins.owner("backbones", family)
        of_model = f" ({model})" if model else ""
        raise PluginError(
            f"the backbone '{family}'{of_model} of plugin {owner}: {error.cause}", error.remedy
        ) from error
    return provider


def backbone_of(backbone: BackboneSpec, image_size: int) -> LayerFeatureProvider:
    """Build the teacher or student that a spec's section describes; raises as :func:`build_backbone` does."""
    return build_backbone(
        backbone.backbone,
        model=backbone.model,
        weights=backbone.weights,
        image_size=image_size,
        options=backbone.options,
    )


def _checked(factory: Callable[..., Any], arguments: dict[str, Any]) -> LayerFeatureProvider:
    try:
        provider = call_factory(factory, arguments)
        check_layers(provider)
    except LeapcoreError:
        raise
    # A plugin can raise anything; most often an option is misspelt.
    except Exception as error:
        raise PluginError(
            f"it cannot be built with the options {arguments['options']}: {describe_error(error)}",
            "Correct the options; if they are right, `leapcore plugins check` finds the plugin's fault.",
        ) from error
    return provider


def models_of(family: str) -> list[str]:
    """The names of the models that a family lists; empty for a family that lists none, or cannot."""
    list_models = factory_attribute(installed_plugins().get("backbones", family), "models", list)
    try:
        return list(list_models())
    except Exception:  # of a plugin, without which all others can still be listed
        logger.warning("the backbone family '%s' cannot list its models", family)
        return []


def family_of(model: str) -> str:
    """The family that takes a model: the one that lists it, else the fallback.

    Raises:
        UnknownNameError: No plugin registers the fallback.
    """
    name = model.split(".")[0]
    return next((family for family in families() if name in models_of(family)), FALLBACK)


def families() -> Iterator[str]:
    """All families whose plugins can be imported, the fallback last."""
    names = installed_plugins().registries["backbones"].names()
    for name in sorted(names, key=lambda name: (name == FALLBACK, name)):
        try:
            installed_plugins().get("backbones", name)
        except PluginError:
            continue
        yield name


def factory_attribute(factory: Callable[..., Any], name: str, default: Any) -> Any:
    """An attribute of a factory (see ``leapcore_register_backbones``), or of the class whose method it is."""
    return getattr(factory, name, getattr(getattr(factory, "__self__", None), name, default))


def call_factory(factory: Callable[..., Any], arguments: dict[str, Any]) -> LayerFeatureProvider:
    """Call what a plugin registered.

    Raises:
        PluginError: It takes other arguments, or returns something else than a provider.
    """
    try:
        inspect.signature(factory).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"its factory cannot be called with {', '.join(arguments)}: {error}",
            "Write it as build(*, model, weights, image_size, options).",
        ) from error
    provider = factory(**arguments)
    if not isinstance(provider, LayerFeatureProvider):
        raise PluginError(
            f"its factory returns a {type(provider).__name__}", "Return a LayerFeatureProvider."
        )
    return provider
