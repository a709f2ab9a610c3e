"""Writing a trained student as ONNX, and checking the file against torch before it is kept."""

from __future__ import annotations

import copy
import importlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
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

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRACED_BATCH = 2  # torch takes sizes 0 and 1 for constants
_CHECKED_BATCHES = (1, 3)


class _Case(NamedTuple):
    """Images (B, 3, H, W) and the features (B, C) that torch computes of them."""

    images: Tensor
    features: Tensor


class _Network(nn.Module):
    """The student as a function of images alone.

    Args:
        student: The provider.
    """

    def __init__(self, student: LayerFeatureProvider) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Tensor:
        """One vector per image (B, C), of normalised images (B, 3, H, W)."""
        network = self.student.model
        if hasattr(network, "pretrained_cfg"):
            found = network(images)
            if isinstance(found, Tensor) and found.ndim == 2:
                return found
        last: LayerFeatures = self.student(images, [len(self.student.layers) - 1])[0]
        return last.pooled

    def random_images(self, batch_size: int) -> Tensor:
        """Random pixels, normalised, always the same ones for a batch size."""
        given = self.student.image_input
        draw = torch.Generator().manual_seed(batch_size)
        return self.student.prepare(torch.rand(batch_size, len(given.mean), *given.size, generator=draw))


def export_onnx(student: LayerFeatureProvider, path: Path) -> float:
    """Write a student's network as ONNX, and compare what onnxruntime makes of it with torch.

    The input ``images`` is (B, 3, H, W) in float32, with the size and normalisation of
    ``student.image_input``; B is free, H and W are fixed, and the file's metadata hold ``mean`` and ``std``.
    The output ``features`` is (B, C):

    - of a timm model what the model itself returns, which is also what the exported timm folder gives. What
      it has behind its last layer, such as SigLIP's attention pooling, is in there, trained or not;
    - of any other network, and where timm's pooling is switched off, the pooled vector of the provider's last
      layer, finalized, which is what is evaluated. Such a network's own output may be anything.

    The student is not touched: a copy on the CPU, in float32 and eval mode, is traced. The weights are in the
    same file, unless they are more than 1.5 GiB: ONNX files end at 2 GB, so they then lie beside it in
    ``<name>.data``.

    Args:
        student: The provider, on any device, in training or not.
        path: The file; its folder is made if it is not there. An earlier file is replaced, but only once the
            new one is whole and checked.

    Returns:
        The largest absolute deviation from torch, as a share of the largest absolute feature.

    Raises:
        OutputError: A package is missing, the student cannot be expressed in ONNX, its features there differ
            from torch's, or the file cannot be written. No new file is left behind.
    """
    runtime = onnxruntime()
    _require_images(student)
    with _as_output_error(path), _silence(), torch.no_grad():
        network, cases = _prepared(student)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own lets a file of weights have its final name, which the graph refers to.
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            draft = Path(folder) / path.name
            _program(network).save(str(draft))
            deviation = _checked(_deviation(_session(runtime, draft), cases))
            for file in sorted(draft.parent.iterdir(), key=lambda file: file == draft):  # the graph last
                os.replace(file, path.parent / file.name)
    return deviation


def onnxruntime() -> Any:
    """The package of that name, once all that are needed are known to be there.

    Raises:
        OutputError: One is missing.
    """
    try:
        *_, runtime = [importlib.import_module(name) for name in _PACKAGES]
    except ImportError as error:
        raise OutputError(
            f"writing ONNX needs {', '.join(_PACKAGES)}: {_in_a_line(error)}",
            "Run: pip install 'leapcore[onnx]'",
        ) from error
    return runtime


def _require_images(student: LayerFeatureProvider) -> None:
    if student.example_input().ndim != 4:
        raise OutputError(
            "only a student that reads images (B, 3, H, W) can be written as ONNX",
            "Use the weights that are exported with it.",
        )


def _prepared(student: LayerFeatureProvider) -> tuple[_Network, list[_Case]]:
    """The network to write, and what it has to return.

    It runs before it is traced, since some of timm's attentions keep a bias from their first run on. What it
    has to return is computed with fused attention where it has that, what is written is not: ONNX has it for
    four axes only, Hiera's has five, and the graph is smaller without.
    """
    network = _Network(_copied(student))
    images = [network.random_images(batch_size) for batch_size in _CHECKED_BATCHES]
    cases = [_Case(batch, network(batch)) for batch in images]
    modules: list[Any] = list(network.modules())
    for module in modules:
        if hasattr(module, "fused_attn"):  # timm's name for the choice
            module.fused_attn = False
    return network, cases


def _copied(student: LayerFeatureProvider) -> LayerFeatureProvider:
    """A deep copy that finds its tensors made already, so that it takes no memory on the student's device."""
    made: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("cpu", copy=True), requires_grad=False)
        for parameter in student.parameters()
    }
    made |= {id(buffer): buffer.detach().to("cpu", copy=True) for buffer in student.buffers()}
    return copy.deepcopy(student, made).float().eval()


def _program(network: _Network) -> Any:
    """The network as torch's ``ONNXProgram``, with the normalisation noted in its metadata."""
    program: Any = torch.onnx.export(
        network,
        (network.random_images(_TRACED_BATCH),),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    for node in program.model.graph:  # lines of source code, with this machine's paths
        node.metadata_props.clear()
    given = network.student.image_input
    program.model.metadata_props.update(mean=str(list(given.mean)), std=str(list(given.std)))
    return program


def _session(runtime: Any, file: Path) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _deviation(session: Any, cases: list[_Case]) -> float:
    """The largest deviation over all cases, as a share of the largest absolute feature of its case."""
    shares = []
    for images, features in cases:
        found = torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
        if found.shape != features.shape:
            raise ValueError(f"features are {tuple(found.shape)} instead of {tuple(features.shape)}")
        largest = features.abs().max().clamp(min=torch.finfo(features.dtype).tiny)
        shares.append((found - features).abs().max() / largest)
    return float(torch.stack(shares).max())  # NaN if one is


def _checked(deviation: float) -> float:
    if deviation <= LARGEST_DEVIATION:
        return deviation
    raise OutputError(
        f"onnxruntime's features differ from torch's by {deviation:.1e} of the largest, "
        f"more than {LARGEST_DEVIATION:.0e}",
        "The file was not kept. Does the student draw random numbers in eval mode, or are its weights not "
        "finite? If neither, try other versions of torch, onnxscript and onnxruntime.",
    )


@contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except LeapcoreError:
        raise
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error}", "Name another file.") from error
    # Tracing, translating and running a network each fail in many ways.
    except Exception as error:
        raise OutputError(
            f"the student cannot be written as ONNX: {_in_a_line(error)}",
            "Newer versions of torch, onnxscript and onnxruntime may know more operators. "
            "The student's weights are not affected.",
        ) from error


def _in_a_line(error: BaseException) -> str:
    """What is behind an error, without the exporter's advice to its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress, warnings and graphs of failures off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
