"""Building timm models from a spec's ``model``, ``weights`` and ``options``, with errors one can act on."""

from __future__ import annotations

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from torch import nn

from leapcore.compat import import_timm
from leapcore.core.features import ImageInput
from leapcore.errors import SpecError, UnknownNameError, WeightsError, did_you_mean

ASSET = "asset:"


def create_timm_model(model: str | None, weights: str, options: dict[str, Any]) -> nn.Module:
    """Build a timm model without its classifier.

    Args:
        model: timm's name for it, or None where ``weights`` is a folder, which tells it.
        weights: ``"none"`` (random), ``"pretrained"`` (timm's download), a weights file
            (``.safetensors``, or ``.pth`` that loads with ``weights_only=True``), a folder in timm's
            ``local-dir`` format, or ``"asset:<name>"`` for one that ships with leapcore.
        options: Further arguments of ``timm.create_model``.

    Raises:
        UnknownNameError: timm has no such model.
        WeightsError: The weights are missing, unreadable or of another architecture.
        SpecError: The model does not take these options.
    """
    options = {"num_classes": 0, **options}
    if weights.startswith(ASSET):
        return _from_asset(model, weights.removeprefix(ASSET), options)
    if weights in ("none", "pretrained"):
        name = _known_name(model)
        return _create(name, weights == "pretrained", options, described=weights)
    path = Path(weights).expanduser()
    if path.is_dir():
        return _from_folder(model, path, options)
    if not path.is_file():
        raise WeightsError(
            f"weights '{weights}' do not exist",
            "Give a file, a folder with config.json and model.safetensors, 'pretrained' or 'none'.",
        )
    overlay = {"file": str(path), "url": "", "hf_hub_id": None}
    return _create(_known_name(model), True, options, described=weights, pretrained_cfg_overlay=overlay)


def timm_image_input(model: nn.Module, size: tuple[int, int]) -> ImageInput:
    """The input of a timm model: the given height and width, the model's own normalisation."""
    config = import_timm().data.resolve_model_data_config(model)
    return ImageInput(size, tuple(config["mean"]), tuple(config["std"]))


def _from_asset(model: str | None, name: str, options: dict[str, Any]) -> nn.Module:
    folder = files("leapcore") / "assets" / name
    if not folder.is_dir():
        known = [entry.name for entry in (files("leapcore") / "assets").iterdir() if entry.is_dir()]
        raise WeightsError(f"leapcore ships no weights named '{name}'", did_you_mean(name, known))
    with as_file(folder) as path:
        return _from_folder(model, path, options)


def _from_folder(model: str | None, folder: Path, options: dict[str, Any]) -> nn.Module:
    try:
        architecture = json.loads((folder / "config.json").read_text())["architecture"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"folder '{folder}' is no timm model: its config.json cannot be used ({error})",
            "Give a folder in timm's local-dir format: config.json with 'architecture', and model.safetensors.",
        ) from error
    if model is not None and model.split(".")[0] != architecture.split(".")[0]:
        raise WeightsError(
            f"the weights in '{folder}' are of {architecture}, not of {model}",
            f"Leave 'model' out, or set it to {architecture}.",
        )
    return _create(f"local-dir:{folder}", True, options, described=str(folder))


def _known_name(model: str | None) -> str:
    if model is None:
        raise SpecError("no 'model' is named", "Name one, or give a folder as 'weights', which tells it.")
    timm = import_timm()
    if not timm.is_model(model.split(".")[0]):
        raise UnknownNameError(f"timm has no model '{model}'", _suggest_model(model))
    return model


def _suggest_model(model: str) -> str:
    import difflib

    near = difflib.get_close_matches(model, import_timm().list_models(), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "See timm.list_models()."


def _create(name: str, pretrained: bool, options: dict[str, Any], *, described: str, **extra: Any) -> nn.Module:
    try:
        network: nn.Module = import_timm().create_model(name, pretrained=pretrained, **options, **extra)
    except TypeError as error:
        raise SpecError(f"{name} does not take these options: {error}", f"Options given: {options}.") from error
    except Exception as error:
        if not pretrained:
            raise SpecError(f"{name} cannot be built: {error}", f"Options given: {options}.") from error
        raise WeightsError(
            f"weights '{described}' cannot be loaded into {name}: {_shortened(error)}",
            "Give weights of this very architecture and these options; downloads need a network.",
        ) from error
    network.leapcore_options = options  # the export writes them down, so that timm can build it again
    return network


def _shortened(error: Exception) -> str:
    """A state dict's mismatch can name hundreds of tensors; the first few tell what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
