"""Writing a trained backbone so that others can load it without leapcore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from leapcore.compat import import_timm, torchvision_operators
from leapcore.core.provider import ImageInput, LayerFeatureProvider

WEIGHTS = "model.safetensors"
HERE = "torchvision here does not match torch; until that is mended:"
_TIMM = "import timm"


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


def export_student(student: LayerFeatureProvider, folder: str | Path, crop: float | None = None) -> None:
    """Write a trained student's network: in timm's format where it is a timm model, else its state dict.

    Args:
        student: The provider, which keeps its network in ``model``.
        folder: Where to.
        crop: Share of each side that its evaluation keeps; the architecture's own if None.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from leapcore import build_backbone, export_student
        >>> options = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 1}
        >>> vit = build_backbone("vit", model="vit_tiny_patch16_224", image_size=16, options=options)
        >>> with TemporaryDirectory() as folder:
        ...     export_student(vit, folder)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['config.json', 'model.safetensors']
    """
    model, folder = student.model, Path(folder)
    if hasattr(model, "pretrained_cfg"):
        export_timm(model, folder, getattr(model, "leapcore_options", {}))
        _describe_input(folder / "config.json", student.image_input, crop)
        return
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / WEIGHTS))


# What timm publishes of an architecture's own weights, which these are not.
_OF_OTHER_WEIGHTS = (
    "test_input_size",
    "test_crop_pct",
    "license",
    "origin_url",
    "paper_ids",
    "paper_name",
    "notes",
)


def _describe_input(config: Path, image_input: ImageInput, crop: float | None) -> None:
    """Describe the images that the student was trained on, and drop what describes other weights.

    timm knows the size of models with a fixed size only, and 1.0.26 leaves out the normalisation, too.
    """
    size, mean, std = image_input
    content = json.loads(config.read_text())
    cfg = {key: value for key, value in content["pretrained_cfg"].items() if key not in _OF_OTHER_WEIGHTS}
    cfg |= {"input_size": [3, *size], "mean": list(mean), "std": list(std)}
    if crop is not None:  # as leapcore's own evaluation views images
        cfg |= {"crop_pct": crop, "crop_mode": "center", "interpolation": "bicubic"}
    config.write_text(json.dumps(content | {"pretrained_cfg": cfg}, indent=2))


def load_line(folder: Path) -> str:
    """The line of Python that loads an exported model, or its weights alone, wherever timm works."""
    if not (folder / "config.json").is_file():
        return f"from safetensors.torch import load_file; weights = load_file({_quoted(folder / WEIGHTS)})"
    return f"{_TIMM}; model = timm.create_model({_quoted(f'local-dir:{folder}')}, pretrained=True)"


def load_line_here(folder: Path) -> str:
    """The same for this machine, where timm alone cannot be imported; empty where it can, or need not."""
    line = load_line(folder)
    if not line.startswith(_TIMM) or torchvision_operators() == "compiled":
        return ""
    return line.replace(_TIMM, "from leapcore.compat import import_timm; timm = import_timm()", 1)


def _quoted(text: str | Path) -> str:
    """A literal of Python, whatever characters are in it; JSON's strings are that too."""
    return json.dumps(str(text), ensure_ascii=False)
