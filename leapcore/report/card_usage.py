"""How a model card says that its model is used: snippets that run as they are printed, in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leapcore.report.document import Block, Code, Table, Text
from leapcore.runs.json_files import read_json_object
from leapcore.runs.reader import Run

UNKNOWN_LICENCE = "unknown"

_TIMM = """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
view = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = Image.new("RGB", (320, 240))  # yours: Image.open(path).convert("RGB")
with torch.no_grad():
    features = model(view(image).unsqueeze(0))  # (1, {width})
"""

_PLUGIN = """\
import torch
from leapcore.models.build import build_backbone

student = build_backbone({arguments}).eval()
pixels = torch.zeros(1, 3, {size}, {size})  # RGB in [0, 1]
with torch.no_grad():
    (last,) = student(student.prepare(pixels), [len(student.layers) - 1])
features = last.pooled
"""


def usage(run: Run, folder: Path) -> list[Block]:
    """How to load the student in a folder, and what it takes."""
    config = read_json_object(folder / "config.json")
    return _plugin(run) if config is None else _timm(config)


def _timm(config: dict[str, Any]) -> list[Block]:
    width, view = config.get("num_features"), config.get("pretrained_cfg") or {}
    height, wide = view["input_size"][-2:]
    rows = [
        ["size", f"{height} × {wide} pixels, RGB"],
        [
            "view",
            f"shorter side scaled to size / {view['crop_pct']} ({view['interpolation']}), then its centre",
        ],
        ["normalisation", f"pixels in [0, 1], minus {view['mean']}, divided by {view['std']}"],
    ]
    return [
        Text("In this folder, with timm and nothing of leapcore:"),
        Code(_TIMM.format(width=width), language="python"),
        Text("Uploaded to the Hugging Face hub, it is loaded by its name there, hf-hub:USER/NAME, instead."),
        Table(["input", "what the model expects; view above does all of it"], rows, stubs=2),
    ]


def _plugin(run: Run) -> list[Block]:
    model, size = run.student_model, run.data.get("image_size")
    keys = {"model": model.model, "weights": ".", "image_size": size, "options": model.options}
    arguments = ", ".join([repr(model.backbone), *(f"{key}={value!r}" for key, value in keys.items())])
    return [
        Text(
            f"timm does not know this network: it is of the backbone family '{model.backbone}', which a "
            "plugin of leapcore provides. model.safetensors holds its state dict. In this folder, with "
            "leapcore and that plugin installed:"
        ),
        Code(_PLUGIN.format(arguments=arguments, size=size), language="python"),
        Text("prepare brings pixels in [0, 1] to the size and normalisation that the network expects."),
    ]
