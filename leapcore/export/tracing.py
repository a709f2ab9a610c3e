"""A student as a function of pixels, ready to be traced, and the check of what was traced."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapcore.core.features import LayerFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import LeapcoreError, OutputError

INPUT = "images"
OUTPUT = "features"

# Measured: rounding leaves at most 4e-6 over the backbone families' sample models. An approximated GELU
# makes 2e-4 in a small ViT, weights in half precision 5e-4, a norm's wrong epsilon 1e-3.
LARGEST_DEVIATION = 1e-4

TRACED_BATCH = 2  # torch takes sizes 0 and 1 for constants
_CHECKED_BATCHES = (1, 3)


class Case(NamedTuple):
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

    def forward(self, pixels: Tensor) -> Tensor:
        """One vector per image (B, C), of RGB pixels (B, 3, H, W) in [0, 1]."""
        network, images = self.student.model, self.student.prepare(pixels)
        if hasattr(network, "pretrained_cfg"):
            found = network(images)
            if isinstance(found, Tensor) and found.ndim == 2:
                return found
        last: LayerFeatures = self.student(images, [len(self.student.layers) - 1])[0]
        return last.pooled

    def random_images(self, batch_size: int) -> Tensor:
        """Random pixels, always the same ones for a batch size."""
        given = self.student.image_input
        draw = torch.Generator().manual_seed(batch_size)
        return torch.rand(batch_size, len(given.mean), *given.size, generator=draw)

    def metadata(self) -> dict[str, str]:
        """What the file tells of its input."""
        given = self.student.image_input
        return {
            "input": "RGB pixels in [0, 1]; normalisation is part of the network",
            "mean": str(list(given.mean)),
            "std": str(list(given.std)),
        }


def network_and_cases(student: LayerFeatureProvider) -> tuple[StudentNetwork, list[Case]]:
    """A copy of a student on the CPU, in float32 and eval mode, and what its trace has to return.

    It runs before it is traced, since some of timm's attentions keep a bias from their first run on.
    """
    network = StudentNetwork(_copied(student))
    images = [network.random_images(batch_size) for batch_size in _CHECKED_BATCHES]
    return network, [Case(batch, network(batch)) for batch in images]


def _copied(student: LayerFeatureProvider) -> LayerFeatureProvider:
    """A deep copy that finds its tensors made already, so that it takes no memory on the student's device."""
    made: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("cpu", copy=True), requires_grad=False)
        for parameter in student.parameters()
    }
    made |= {id(buffer): buffer.detach().to("cpu", copy=True) for buffer in student.buffers()}
    return copy.deepcopy(student, made).float().eval()


def require_images(student: LayerFeatureProvider, format_name: str) -> None:
    """Refuse what reads something else, such as text.

    Raises:
        OutputError: It does.
    """
    if student.example_input().ndim != 4:
        raise OutputError(
            f"only a student that reads images (B, 3, H, W) can be written as {format_name}",
            "Use the weights that are exported with it.",
        )


def checked_deviation(found: Callable[[Tensor], Tensor], cases: list[Case], runtime: str) -> float:
    """The largest deviation over all cases, as a share of the largest absolute feature of its case.

    Args:
        found: What was written, as a function of pixels.
        cases: What it has to return.
        runtime: What computes it, for the message.

    Raises:
        OutputError: It is more than rounding leaves.
    """
    deviation = float(torch.stack([_deviation(found(case.images), case.features) for case in cases]).max())
    if deviation <= LARGEST_DEVIATION:  # which NaN is not
        return deviation
    raise OutputError(
        f"{runtime}'s features differ from torch's by {deviation:.1e} of the largest, "
        f"more than {LARGEST_DEVIATION:.0e}",
        "The file was not kept. Does the student draw random numbers in eval mode, or are its weights not "
        f"finite? If neither, try other versions of torch and {runtime}.",
    )


def _deviation(found: Tensor, features: Tensor) -> Tensor:
    if found.shape != features.shape:
        raise ValueError(f"features are {tuple(found.shape)} instead of {tuple(features.shape)}")
    largest = features.abs().max().clamp(min=torch.finfo(features.dtype).tiny)
    return (found - features).abs().max() / largest


@contextmanager
def quietly(path: Path, format_name: str, packages: str) -> Iterator[None]:
    """Trace and check in here: without gradients and noise, and with one kind of error.

    Args:
        path: The file to be written.
        format_name: What it is to be.
        packages: Whose newer versions may help.

    Raises:
        OutputError: The student cannot be traced or checked, or the file cannot be written.
    """
    try:
        with _silence(), torch.no_grad():
            yield
    except LeapcoreError:
        raise
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error}", "Name another file.") from error
    # Tracing, translating and running a network each fail in many ways.
    except Exception as error:
        raise OutputError(
            f"the student cannot be written as {format_name}: {in_a_line(error)}",
            f"Newer versions of {packages} may know more operators. The student's weights are not affected.",
        ) from error


def in_a_line(error: BaseException) -> str:
    """What is behind an error, without the exporter's advice to its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch's progress, warnings and graphs of failures off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
