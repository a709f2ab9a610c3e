"""From the student's width to the teacher's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from leapcore.core.features import LayerFeatures
from leapcore.core.objective import ClsHead, check_choice


class Projector(nn.Module):
    """One linear head per teacher width.

    A ViT has one width, so one head serves all its blocks and is kept when the target moves, as in
    LEAP. Weights start from a truncated normal of standard deviation 0.02, biases from 0.

    Args:
        student_channels: Width of the student's features.
        teacher_channels: Widths of the teacher's layers; repetitions count once.
        cls_head: Whether the pooled vector (the class token) goes through the tokens' head (``"shared"``) or
            one of its own (``"separate"``).

    Example:
        >>> projector = Projector(24, [72, 72, 144])  # of a teacher with layers of two widths
        >>> sorted(projector.heads)
        ['144', '72']
        >>> projector(LayerFeatures(torch.rand(2, 16, 24), (4, 4)), channels=72).tokens.shape
        torch.Size([2, 16, 72])
    """

    def __init__(
        self, student_channels: int, teacher_channels: Iterable[int], *, cls_head: ClsHead = "shared"
    ) -> None:
        super().__init__()
        check_choice("cls_head", cls_head, ClsHead)
        widths = sorted(set(teacher_channels))
        self.heads = _heads(student_channels, widths)
        self.cls_heads = _heads(student_channels, widths if cls_head == "separate" else [])

    def forward(self, features: LayerFeatures, channels: int) -> LayerFeatures:
        """Project (B, N, student_channels) to (B, N, channels), prefix tokens too."""
        projected = features.map(self.heads[str(channels)])
        if self.cls_heads:
            pooled = self.cls_heads[str(channels)](features.pooled)
            projected = replace(projected, prefix_tokens=pooled.unsqueeze(1))
        return projected

    def reset(self) -> None:
        """Start all heads anew, in place; the optimizer's state of them stays."""
        for head in (*self.heads.values(), *self.cls_heads.values()):
            _initialise(head)


def _heads(student_channels: int, widths: list[int]) -> nn.ModuleDict:
    return nn.ModuleDict({str(width): _initialise(nn.Linear(student_channels, width)) for width in widths})


@torch.no_grad()
def _initialise(head: Any) -> nn.Module:
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    linear: nn.Module = head
    return linear
