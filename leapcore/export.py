"""Writing a trained backbone so that others can load it without leapcore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from leapcore.compat import import_timm, torchvision_operators
from leapcore.core.provider import ImageInput, LayerFeatureProvider

WEIGHTS = "model.safetensors"


def export_timm(model: nn.Module, folder: Path, options: dict[str, Any]) -> None:
    """Write a timm model in timm's ``local-dir`` format: ``config.json`` and ``model.safetensors``.

    Args:
        model: A timm model.
        folder: Where to; made if it is not there.
        options: The arguments it was created with, so that it can be created again.
    """
    import_timm()
    from timm.models import save_for_hf

    own = {"pretrained_cfg": {"tag": "leapcore"}}  # not the tag of weights it was not trained from
    save_for_hf(model, str(folder), model_config=own, model_args=options, safe_serialization=True)


def export_student(student: LayerFeatureProvider, folder: Path) -> None:
    """Write a trained student's network: in timm's format where it is a timm model, else its state dict.

    Args:
        student: The provider, which keeps its network in ``model``.
        folder: Where to.
    """
    model = student.model
    if hasattr(model, "pretrained_cfg"):
        export_timm(model, folder, getattr(model, "leapcore_options", {}))
        _note_input(folder / "config.json", student.image_input)
        return
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))


def _note_input(config: Path, image_input: ImageInput) -> None:
    """Write down what the student was trained on.

    timm knows the size of models with a fixed size only, and 1.0.26 leaves out the normalisation, too.
    """
    found = json.loads(config.read_text())
    size, mean, std = image_input
    found["pretrained_cfg"] |= {"input_size": [3, *size], "mean": list(mean), "std": list(std)}
    found["pretrained_cfg"].pop("test_input_size", None)
    config.write_text(json.dumps(found, indent=2))


def load_line(folder: Path) -> str:
    """The line of Python that loads an exported model on this machine, or its weights alone."""
    if not (folder / "config.json").is_file():
        return f'from safetensors.torch import load_file; weights = load_file("{folder / WEIGHTS}")'
    plain = torchvision_operators() == "compiled"
    start = "import timm" if plain else "from leapcore.compat import import_timm; timm = import_timm()"
    return f'{start}; model = timm.create_model("local-dir:{folder}", pretrained=True)'
