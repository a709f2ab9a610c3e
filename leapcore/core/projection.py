"""From the student's width to the teacher's."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from leapcore.core.features import LayerFeatures


class Projector(nn.Module):
    """One linear head per teacher width; tokens and prefix tokens go through the same head.

    A ViT has one width, so one head serves all its blocks and is kept when the target moves, as in
    LEAP. Weights start from a truncated normal of standard deviation 0.02, biases from 0.

    Args:
        student_channels: Width of the student's features.
        teacher_channels: Widths of the teacher's layers; repetitions count once.
    """

    def __init__(self, student_channels: int, teacher_channels: Iterable[int]) -> None:
        super().__init__()
        widths = sorted(set(teacher_channels))
        self.heads = nn.ModuleDict({str(width): _head(student_channels, width) for width in widths})

    def forward(self, features: LayerFeatures, channels: int) -> LayerFeatures:
        """Project (B, N, student_channels) to (B, N, channels)."""
        return features.map(self.heads[str(channels)])


def _head(student_channels: int, teacher_channels: int) -> nn.Linear:
    head = nn.Linear(student_channels, teacher_channels)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head
