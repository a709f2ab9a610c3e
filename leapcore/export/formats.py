"""The formats that a student is written in beside timm's own: their files, and the lines that load them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from leapcore.errors import OutputError, did_you_mean

if TYPE_CHECKING:
    from leapcore.core.provider import LayerFeatureProvider

ALWAYS = "timm"  # is written whatever is asked for
FORMATS = (ALWAYS, "onnx", "pt2")


class ExportedFile(NamedTuple):
    """Another format beside the weights.

    Attributes:
        format: What people call it.
        name: The file's.
        size: Height and width of the images that it takes.
        deviation: From torch, as a share of the largest absolute feature.
    """

    format: str
    name: str
    size: tuple[int, int]
    deviation: float

    def load_line(self, folder: Path | None = None) -> str:
        """The line of Python that runs it, in its own folder if none is named."""
        path = str(folder / self.name if folder else self.name)
        shape = f"(1, 3, {self.size[0]}, {self.size[1]})"
        if self.format == "ONNX":
            images = f'{{"images": numpy.zeros({shape}, "float32")}}'
            run = f"onnxruntime.InferenceSession({path!r}).run(None, {images})[0]"
            return f"import numpy, onnxruntime; features = {run}"
        return f"import torch; features = torch.export.load({path!r}).module()(torch.zeros{shape})"


def requested_formats(names: Iterable[str]) -> list[str]:
    """The formats that are named, each once, without timm's, which is always written.

    Raises:
        OutputError: There is no such format.

    Example:
        >>> requested_formats(["ONNX", "timm", "onnx"])
        ['onnx']
    """
    formats = list(dict.fromkeys(name.lower() for name in names))
    if "torchscript" in formats:
        raise OutputError(
            "TorchScript is not written: torch has given it up in favour of torch.export",
            "Name pt2 instead, the format of torch.export, or onnx.",
        )
    for name in formats:
        if name not in FORMATS:
            raise OutputError(f"there is no format '{name}'", did_you_mean(name, FORMATS))
    return [name for name in formats if name != ALWAYS]


def write_format(name: str, student: LayerFeatureProvider, folder: Path) -> ExportedFile:
    """Write a student in one of :data:`FORMATS`, and check the file against torch.

    Args:
        name: ``"onnx"`` or ``"pt2"``.
        student: The provider.
        folder: Gets ``student.onnx`` or ``student.pt2``.

    Raises:
        OutputError: The student cannot be written in this format.
    """
    file, size = f"student.{name}", student.image_input.size
    if name == "onnx":
        from leapcore.export.onnx import export_onnx

        return ExportedFile("ONNX", file, size, export_onnx(student, folder / file))
    from leapcore.export.pt2 import export_pt2

    return ExportedFile("torch.export", file, size, export_pt2(student, folder / file))
