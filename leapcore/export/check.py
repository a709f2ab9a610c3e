"""Exported files are checked before they are kept: they compute what torch does, or they are not there."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from leapcore.errors import LeapcoreError, OutputError
from leapcore.export.network import Reference

# Measured: rounding leaves at most 4e-6 over the backbone families' sample models. An approximated GELU
# makes 2e-4 in a small ViT, weights in half precision 5e-4, a norm's wrong epsilon 1e-3.
LARGEST_DEVIATION = 1e-4


@contextmanager
def draft_of(path: Path, format_name: str, packages: str) -> Iterator[Path]:
    """A context to export a student in: without gradients, without noise, and with one kind of error.

    Args:
        path: The file; its folder is made if it is not there.
        format_name: The file's format, for messages.
        packages: Whose newer versions may help.

    Yields:
        Where to write the file, in an empty folder. At the end of the context all files in there move beside
        ``path``; if it ends with an error, none does.

    Raises:
        OutputError: The student cannot be exported or checked, or the file cannot be written.
    """
    try:
        with _silence(), torch.no_grad():
            path.parent.mkdir(parents=True, exist_ok=True)
            # A folder of its own lets a file of weights have its final name, by which the graph refers to it.
            with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                draft = Path(folder) / path.name
                yield draft
                for file in sorted(draft.parent.iterdir(), key=lambda file: file == draft):  # the graph last
                    os.replace(file, path.parent / file.name)
    except LeapcoreError:
        raise
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error}", "Name another file.") from error
    # Tracing, translating and running a network each fail in many ways.
    except Exception as error:
        raise OutputError(
            f"the student cannot be written as {format_name}: {first_cause(error)}",
            f"Newer versions of {packages} may know more operators. The student's weights are not affected.",
        ) from error


def checked_deviation(
    computed: Callable[[Tensor], Tensor], references: Sequence[Reference], runtime: str
) -> float:
    """The largest deviation from torch, as a share of the largest absolute feature of its batch.

    Args:
        computed: The file's features (B, C) of pixels (B, 3, H, W).
        references: What torch computes.
        runtime: What runs the file, for the message.

    Raises:
        OutputError: It is more than rounding leaves.
    """
    deviations = [_deviation(computed(images), features) for images, features in references]
    deviation = float(torch.stack(deviations).max())
    if deviation <= LARGEST_DEVIATION:  # which NaN is not
        return deviation
    raise OutputError(
        f"{runtime}'s features differ from torch's by {deviation:.1e} of the largest, "
        f"more than {LARGEST_DEVIATION:.0e}",
        "The file was not kept. Does the student draw random numbers in eval mode, or are its weights not "
        f"finite? If neither, try other versions of torch and {runtime}.",
    )


def _deviation(computed: Tensor, features: Tensor) -> Tensor:
    if computed.shape != features.shape:
        raise ValueError(f"features are {tuple(computed.shape)} instead of {tuple(features.shape)}")
    largest = features.abs().max().clamp(min=torch.finfo(features.dtype).tiny)
    return (computed - features).abs().max() / largest


def first_cause(error: BaseException) -> str:
    """The error behind all others in a line, without the exporter's advice to its own developers."""
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
