"""What both peers share: the spec's models in their terms, and laps at the end of Lightning's steps.

Import it before anything else that imports torchvision. It needs the peers' environment only.
"""
# ruff: noqa: E402  what comes first makes the other imports possible

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))  # the peers' environment has no leapcore

from leapcore.compat import torchvision_operators

torchvision_operators()
os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"  # it would report its use over the network

import lightly_train  # noqa: F401  the programs take it from here
import timm
import torch
import yaml
from lightly_train._methods.distillationv2 import distillationv2
from lightly_train._models.dinov2_vit.dinov2_vit_src.models.vision_transformer import DinoVisionTransformer
from stopwatch import Stopwatch
from torch import nn

SPEC: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("spec.yaml").read_text())
IMAGE_SIZE: int = SPEC["data"]["image_size"]
DEPTH: int = SPEC["teacher"]["options"]["depth"]


def student() -> nn.Module:
    """The spec's student, as leapcore builds it."""
    wanted = SPEC["student"]
    return timm.create_model(wanted["model"], img_size=IMAGE_SIZE, num_classes=0, **wanted["options"])


def use_teacher(weights: Path) -> None:
    """Let lightly-train distill from the spec's teacher, a size that it has no name for."""
    distillationv2.get_teacher = lambda **_: _teacher(weights)


def _teacher(weights: Path) -> nn.Module:
    options, registers = SPEC["teacher"]["options"], 4  # the reg4 of the model's name
    model = DinoVisionTransformer(
        img_size=IMAGE_SIZE, block_chunks=0, num_register_tokens=registers, **options
    )
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval().requires_grad_(False)


def time_steps(target: int) -> Stopwatch:
    """A stopwatch that takes a lap at the end of every step."""
    stopwatch, method = Stopwatch(), distillationv2.DistillationV2
    end = method.on_train_batch_end

    def end_and_lap(self: Any, *arguments: Any) -> None:
        end(self, *arguments)
        stopwatch.lap(target)

    method.on_train_batch_end = end_and_lap
    return stopwatch
