"""A student as a function of pixels, which is what ONNX and .pt2 files hold."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapcore.core.features import LayerFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import OutputError

INPUT = "images"
OUTPUT = "features"

_EXAMPLE_BATCH = 2  # torch takes sizes 0 and 1 for constants
_CHECKED_BATCHES = (1, 3)


class Reference(NamedTuple):
    """Pixels (B, 3, H, W) in [0, 1] and the features (B, C) that torch computes of them."""

    images: Tensor
    features: Tensor


class StudentNetwork(nn.Module):
    """A student as a function of pixels alone; its normalisation is part of it.

    Args:
        student: The provider.
    """

    def __init__(self, student: LayerFeatureProvider) -> None:
        super().__init__()
        self.student = student

    @classmethod
    def copied(cls, student: LayerFeatureProvider) -> StudentNetwork:
        """A copy of the student on the CPU, in float32 and eval mode; the student is not touched.

        It is a deep copy that is given its tensors, so that it takes no memory on the student's device.
        """
        tensors: dict[int, Any] = {
            id(parameter): nn.Parameter(parameter.detach().to("cpu", copy=True), requires_grad=False)
            for parameter in student.parameters()
        }
        tensors |= {id(buffer): buffer.detach().to("cpu", copy=True) for buffer in student.buffers()}
        return cls(copy.deepcopy(student, tensors).float()).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """One vector per image (B, C), of RGB pixels (B, 3, H, W) in [0, 1]."""
        network, images = self.student.model, self.student.prepare(pixels)
        if hasattr(network, "pretrained_cfg"):
            output = network(images)
            if isinstance(output, Tensor) and output.ndim == 2:
                return output
        last: LayerFeatures = self.student(images, [len(self.student.layers) - 1])[0]
        return last.pooled

    def references(self) -> list[Reference]:
        """What a file that holds this network has to return.

        To be called before the network is exported: some of timm's attentions compute a bias in their first
        run and keep it, which torch's exporter does not see.
        """
        batches = [self._random_images(size) for size in _CHECKED_BATCHES]
        return [Reference(images, self(images)) for images in batches]

    def exporter_arguments(self) -> dict[str, Any]:
        """Example images and the free batch size, as ``torch.export`` and ``torch.onnx`` take them."""
        return {
            "args": (self._random_images(_EXAMPLE_BATCH),),
            "dynamic_shapes": ({0: torch.export.Dim("batch")},),
        }

    def _random_images(self, batch_size: int) -> Tensor:
        """Random pixels, always the same ones for a batch size."""
        size, mean, _ = self.student.image_input
        generator = torch.Generator().manual_seed(batch_size)
        return torch.rand(batch_size, len(mean), *size, generator=generator)

    def metadata(self) -> dict[str, str]:
        """What a file says of its input."""
        _, mean, std = self.student.image_input
        return {
            "input": "RGB pixels in [0, 1]; normalisation is part of the network",
            "mean": str(list(mean)),
            "std": str(list(std)),
        }


def require_images(student: LayerFeatureProvider, format_name: str) -> None:
    """Refuse a student that reads something else than images, such as text.

    Raises:
        OutputError: It does.
    """
    if student.example_input().ndim != 4:
        raise OutputError(
            f"only a student that reads images (B, 3, H, W) can be written as {format_name}",
            "Use the weights that are exported with it.",
        )
