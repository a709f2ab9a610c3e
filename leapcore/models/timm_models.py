"""Building timm models from a spec's ``model``, ``weights`` and ``options``, with errors one can act on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from leapcore.compat import import_timm
from leapcore.core.provider import ImageInput
from leapcore.errors import SpecError, UnknownNameError, WeightsError, short_message
from leapcore.models.weights import misfit
from leapcore.spec.paths import weights_path

# Arguments of timm.create_model that name a source of weights; a spec has `weights` for that.
_SOURCES = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")


def create_timm_model(
    model: str | None, weights: str, options: dict[str, Any], *, image_size: int | None = None
) -> Any:
    """Build a timm model without its classifier.

    Args:
        model: timm's name for it, or None where ``weights`` is a folder, which names it.
        weights: ``"none"`` (random), ``"pretrained"`` (timm's download), a weights file
            (``.safetensors``, or ``.pth`` that loads with ``weights_only=True``), a folder in timm's
            ``local-dir`` format, or ``"asset:<name>"`` for one that ships with leapcore.
        options: Further arguments of ``timm.create_model``.
        image_size: Side of the square images it is for, unless ``options`` has an ``img_size``. It is
            passed on to models that are made for one size; others take any.

    Returns:
        The model, an ``nn.Module``; its parts depend on the family.

    Raises:
        UnknownNameError: timm has no such model.
        WeightsError: The weights are missing, unreadable or of another architecture.
        SpecError: The model does not take these options.

    Example:
        >>> model = create_timm_model("convnext_atto", "none", {"depths": (1, 1, 2, 1)}, image_size=64)
        >>> model(torch.zeros(1, 3, 64, 64)).shape  # pooled features, without a classifier
        torch.Size([1, 320])
    """
    _refuse_sources(options)
    path = weights_path(weights)
    folder = path if path is not None and path.is_dir() else None
    name = _known_name(model) if folder is None else _checked_architecture(model, folder)
    size = options.get("img_size", image_size)
    if size is not None:
        _require_size(size)
    network = _build(name, folder, path, weights, {"num_classes": 0, **_sized(name, size, options)})
    network.leapcore_image_size = size
    return network


def _refuse_sources(options: dict[str, Any]) -> None:
    for name in _SOURCES:
        if name in options:
            raise SpecError(
                f"options.{name} cannot be used: 'weights' names the source of weights", "Leave it out."
            )


def timm_image_input(model: Any) -> ImageInput:
    """The input of a model from :func:`create_timm_model`: its image size, its normalisation.

    Example:
        >>> timm_image_input(create_timm_model("convnext_atto", "none", {"depths": (1, 1, 2, 1)}))
        ImageInput(size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """
    config = import_timm().data.resolve_model_data_config(model)
    height, width = _pair(model.leapcore_image_size or config["input_size"][-2:])
    return ImageInput((height, width), tuple(config["mean"]), tuple(config["std"]))


def _sized(name: str, size: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options with ``img_size`` where the model wants it, without where it would not know it."""
    options = {key: value for key, value in options.items() if key != "img_size"}
    config = import_timm().models.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    return {**options, "img_size": size} if fixed and size else options


def _build(name: str, folder: Path | None, path: Path | None, weights: str, options: dict[str, Any]) -> Any:
    if folder is not None:
        return _from_folder(folder, options)
    network = _create(name, options, pretrained=weights == "pretrained")
    if path is not None:
        _load(network, path)
    return network


def architecture(folder: Path) -> str:
    """timm's name of the model in a folder in its local-dir format.

    Raises:
        WeightsError: It has no usable ``config.json``.
    """
    try:
        name = json.loads((folder / "config.json").read_text())["architecture"]
        if not isinstance(name, str):
            raise TypeError(f"its architecture is {name!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"folder '{folder}' is no timm model: its config.json cannot be used ({error})",
            "Give a folder in timm's local-dir format: config.json and model.safetensors.",
        ) from error
    return name


def _checked_architecture(model: str | None, folder: Path) -> str:
    name = architecture(folder)
    if model is not None and model.split(".")[0] != name.split(".")[0]:
        raise WeightsError(
            f"the weights in '{folder}' are of {name}, not of {model}",
            f"Leave 'model' out, or set it to {name}.",
        )
    return name


def _from_folder(folder: Path, options: dict[str, Any]) -> Any:
    network = _create(f"local-dir:{folder}", options)
    files = [folder / name for name in _WEIGHTS_FILES if (folder / name).is_file()]
    if not files:
        raise WeightsError(f"folder '{folder}' holds no weights", f"It needs {' or '.join(_WEIGHTS_FILES)}.")
    _load(network, files[0])
    return network


def _known_name(model: str | None) -> str:
    if model is None:
        raise SpecError("no 'model' is named", "Name one, or give a folder as 'weights', which names it.")
    timm = import_timm()
    if not timm.is_model(model.split(".")[0]):
        raise UnknownNameError(f"timm has no model '{model}'", _suggest_model(model))
    return model


def _suggest_model(model: str) -> str:
    import difflib

    names = import_timm().list_models()
    near = [name for name in names if model in name][:3] or difflib.get_close_matches(model, names, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return (
        "`leapcore backbones PART` lists the names that hold PART; if a folder was meant, it does not exist."
    )


def _create(name: str, options: dict[str, Any], *, pretrained: bool = False) -> Any:
    try:
        network: Any = import_timm().create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        raise SpecError(
            f"{name} does not take these options: {error}",
            f"Options given: {options}. Is it a model of the backbone family that the spec names?",
        ) from error
    # timm and its downloads fail in many ways, each with a message of its own.
    except Exception as error:
        if not pretrained:
            raise SpecError(f"{name} cannot be built: {error}", f"Options given: {options}.") from error
        raise WeightsError(
            f"the pretrained weights of {name} cannot be had: {short_message(error)}",
            "Downloads need a network, and not every model has weights; or give a file or a folder.",
        ) from error
    if pretrained:
        _check_untouched(name, network, options)
    _check_patches(name, network)
    network.leapcore_options = options  # the export writes them down, so that timm can build it again
    return network


def _check_untouched(name: str, network: Any, options: dict[str, Any]) -> None:
    """Check that options leave no tensor without pretrained weights: timm would fill it with random numbers.

    Position and patch embeddings may differ in size: timm resamples those.
    """
    with torch.device("meta"):
        published = import_timm().create_model(name, num_classes=0).state_dict()
    ours = network.state_dict()
    resampled = ("pos_embed", "patch_embed", "rel_pos", "rope")
    changed = [
        key
        for key in sorted(published.keys() | ours.keys())
        if key not in published
        or key not in ours
        or (published[key].shape != ours[key].shape and not any(part in key for part in resampled))
    ]
    if changed:
        raise WeightsError(
            f"the pretrained weights of {name} do not fit the options {options}: {changed[0]} differs",
            "Leave out the options that change the architecture, or set weights to 'none'.",
        )


def _load(network: Any, path: Path) -> None:
    """Load a file, converted by the family's own filter, and make sure that it is all there.

    timm would load it leniently, since the classifier is missing on purpose.
    """
    from timm.models import load_checkpoint

    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        result = load_checkpoint(network, str(path), strict=False, filter_fn=convert, weights_only=True)
    except Exception as error:
        if "weights_only" in str(error):  # torch and timm advise to switch it off
            raise WeightsError(
                f"weights '{path}' cannot be loaded: damaged, or more than tensors, which could run code",
                "Have them saved as .safetensors, or as a state dict alone.",
            ) from error
        raise misfit(path, network.pretrained_cfg["architecture"], short_message(error)) from error
    differences = _differences(network, result.missing_keys, result.unexpected_keys)
    if differences:
        reason = f"{len(differences)} tensors differ: {', '.join(differences[:3])}, …"
        raise misfit(path, network.pretrained_cfg["architecture"], reason)


def _differences(network: Any, missing: list[str], unexpected: list[str]) -> list[str]:
    """Tensors that a file lacks or has too many, its classifier's left out."""
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    surplus = [key for key in unexpected if not key.startswith(heads)]
    if surplus:  # a classifier can bring a norm along that timm does not list
        surplus = sorted(set(surplus) - _keys_with_classifier(network))
    return [f"without {key}" for key in missing] + [f"with a strange {key}" for key in surplus]


def _keys_with_classifier(network: Any) -> set[str]:
    options = {key: value for key, value in network.leapcore_options.items() if key != "num_classes"}
    with torch.device("meta"):
        whole = import_timm().create_model(_known_name(network.pretrained_cfg["architecture"]), **options)
    return set(whole.state_dict())


def _pair(size: Any) -> Any:
    return (size, size) if isinstance(size, int) else size


def _require_size(size: Any) -> None:
    sides = _pair(size)
    fits = isinstance(sides, (list, tuple)) and len(sides) == 2
    if not (fits and all(isinstance(side, int) and side > 0 for side in sides)):
        raise SpecError(f"an image size is {size!r}", "Give pixels: a number, or [height, width].")


def _check_patches(name: str, network: Any) -> None:
    patches: Any = getattr(network, "patch_embed", None)
    image, patch = getattr(patches, "img_size", None), getattr(patches, "patch_size", None)
    image, patch = _pair(image), _pair(patch)
    if image and tuple(image) == tuple(network.pretrained_cfg["input_size"][-2:]):
        return  # some were trained at a size that leaves a margin
    if image and patch and any(side % cell for side, cell in zip(image, patch, strict=True)):
        below = max(image[0] // patch[0], 1) * patch[0]
        raise SpecError(
            f"image size {' x '.join(map(str, image))} cannot be cut into {name}'s patches "
            f"of {' x '.join(map(str, patch))} pixels",
            f"Use a multiple, such as {below} or {below + patch[0]}.",
        )


def published_license(model: str) -> str | None:
    """The licence that timm states of a model's published weights, None where it states none."""
    config = import_timm().models.get_pretrained_cfg(model)
    return config.license if config is not None else None
