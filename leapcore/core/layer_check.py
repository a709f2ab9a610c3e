"""Does a backbone yield the layers that it describes? Cheap enough for the start of every run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from leapcore.core.counting import on_meta
from leapcore.core.features import LayerFeatures, LayerInfo
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import PluginError, describe_error

_YIELD = "Yield one LayerFeatures after each block, in the order of `layers`."


@torch.no_grad()
def layer_shapes(provider: LayerFeatureProvider) -> list[LayerFeatures]:
    """The features of one example on the meta device: shapes without arithmetic.

    Raises:
        PluginError: The backbone cannot run on its own example.
    """
    empty = on_meta(provider).eval()
    try:
        layers = empty.iter_layers(provider.example_input().to("meta"))
        if not isinstance(layers, Iterator):
            raise PluginError(f"iter_layers of {type(provider).__name__} returns a list", _YIELD)
        return list(layers)
    except PluginError:
        raise
    # A network can fail in any way on images that it was not made for.
    except Exception as error:
        if _runs(provider):
            raise PluginError(
                f"{type(provider).__name__} runs, but not on the meta device: {describe_error(error)}",
                "New tensors belong on the input's device; branch on no values, and call no .item().",
            ) from error
        size = " x ".join(map(str, provider.image_input.size))
        raise PluginError(
            f"{type(provider).__name__} cannot run on images of {size} pixels: {describe_error(error)}",
            "Give it the image size that it was made for: options: {img_size: …}, or data.image_size.",
        ) from error


@torch.no_grad()
def uncalled_modules(provider: LayerFeatureProvider) -> dict[str, nn.Module]:
    """The modules of the network that the last layer's features are computed without calling, by name.

    The network itself is among them where the provider calls its parts one by one.
    """
    empty, ran = on_meta(provider).eval(), set[nn.Module]()
    for module in empty.model.modules():
        module.register_forward_hook(lambda module, *_: ran.add(module))
    last = len(provider.layers) - 1
    empty(provider.example_input().to("meta"), [last])
    names = [name for name, module in empty.model.named_modules() if module not in ran]
    return {name: provider.model.get_submodule(name) for name in names}


def idle_modules(provider: LayerFeatureProvider) -> dict[str, int]:
    """Modules with weights that the last layer does not need, and how many parameters each has.

    A student's are exported as they started: nothing trains them.
    """
    counts = {
        name: sum(p.numel() for p in module.parameters(recurse=False))
        for name, module in uncalled_modules(provider).items()
        if name  # of the network itself, embeddings and tokens are used from outside
    }
    return {name: count for name, count in counts.items() if count}


def check_layers(provider: LayerFeatureProvider) -> None:
    """Compare what a backbone yields with its ``layers``.

    Raises:
        PluginError: It yields too few or too many layers, or others than it says.
    """
    if not provider.layers:
        raise PluginError(f"{type(provider).__name__} has no layers", "Give it at least one block.")
    if not all(isinstance(layer, LayerInfo) for layer in provider.layers):
        raise PluginError(
            f"the layers of {type(provider).__name__} are no LayerInfo",
            "List LayerInfo(name, channels, stride).",
        )
    features = layer_shapes(provider)
    if len(features) != len(provider.layers):
        raise PluginError(
            f"{type(provider).__name__} has {len(provider.layers)} layers but yields {len(features)}", _YIELD
        )
    for index, (layer, yielded) in enumerate(zip(provider.layers, features, strict=True)):
        name = f"layer {index + 1} ('{layer.name}') of {type(provider).__name__}"
        check_layer(name, layer, yielded)
        try:
            provider.block(index)
        except AttributeError as error:
            raise PluginError(
                f"{name} is named after no module: {error}",
                "Keep the network in self.model, and name each layer by the path of its block in it.",
            ) from error


def _runs(provider: LayerFeatureProvider) -> bool:
    """Whether the backbone runs where it is, on one example."""
    example = provider.example_input()
    device = next((p.device for p in provider.parameters()), example.device)
    if device.type == "meta":
        return False
    try:
        return bool(list(provider.iter_layers(example.to(device))))
    # It may fail in any way.
    except Exception:
        return False


def check_layer(name: str, layer: LayerInfo, features: LayerFeatures) -> None:
    """Compare what a layer yields with its description.

    Args:
        name: The layer's, for messages.
        layer: Its description.
        features: What it yields.

    Raises:
        PluginError: They differ.
    """
    if not isinstance(features, LayerFeatures):
        raise PluginError(f"{name} yields a {type(features).__name__}, not LayerFeatures", _YIELD)
    tokens, prefix, grid = features.tokens, features.prefix_tokens, features.grid
    if tokens.ndim != 3:
        raise PluginError(
            f"{name} yields tokens of shape {tuple(tokens.shape)}, not (B, N, C)",
            "Use LayerFeatures.from_nchw for feature maps (B, C, H, W).",
        )
    if features.channels != layer.channels:
        raise PluginError(
            f"{name} yields features of width {features.channels}, but its LayerInfo says {layer.channels}",
            "Correct its channels; if a neighbour's fit, the layers are out of order.",
        )
    if prefix is not None and prefix.shape[2:] != (layer.channels,):
        raise PluginError(
            f"{name} yields prefix tokens of shape {tuple(prefix.shape)}, not (B, P, C)",
            "They are as wide as its tokens, (B, P, C), or None.",
        )
    if grid is not None and (len(grid) != 2 or math.prod(grid) != tokens.shape[1]):
        raise PluginError(
            f"{name} yields {tokens.shape[1]} tokens on a grid of {' x '.join(map(str, grid))}",
            "Give the grid as (rows, columns), and prefix tokens apart from the tokens.",
        )
