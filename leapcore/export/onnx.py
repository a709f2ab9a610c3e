"""Writing a trained student as ONNX, and checking the file against torch before it is kept."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import OutputError
from leapcore.export.check import checked_deviation, draft_of, first_cause
from leapcore.export.network import INPUT, OUTPUT, StudentNetwork, require_images

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(student: LayerFeatureProvider, path: Path) -> float:
    """Write a student's network as ONNX, and compare what onnxruntime makes of it with torch.

    The input ``images`` is (B, 3, H, W) in float32: RGB pixels in [0, 1] in the size of
    ``student.image_input``; B is free, H and W are fixed. Normalisation is part of the graph, and the file's
    metadata say so and hold ``mean`` and ``std``. The output ``features`` is (B, C):

    - of a timm model what the model itself returns, which is also what the exported timm folder gives. What
      comes after its last layer, such as SigLIP's attention pooling, is part of it, trained or not;
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
    runtime = _runtime()
    require_images(student, "ONNX")
    with draft_of(path, "ONNX", "torch, onnxscript and onnxruntime") as draft:
        network = StudentNetwork.copied(student)
        references = network.references()
        _unfuse_attention(network)
        _program(network).save(str(draft))
        session = _session(runtime, draft)
        return checked_deviation(lambda images: _run(session, images), references, "onnxruntime")


def _runtime() -> Any:
    """The package ``onnxruntime``, once all three packages are there.

    Raises:
        OutputError: One is missing.
    """
    try:
        *_, runtime = [importlib.import_module(name) for name in _PACKAGES]
    except ImportError as error:
        raise OutputError(
            f"writing ONNX needs {', '.join(_PACKAGES)}: {first_cause(error)}",
            "Run: pip install 'leapcore[onnx]'",
        ) from error
    return runtime


def _unfuse_attention(network: StudentNetwork) -> None:
    """ONNX has fused attention for four axes only, Hiera's has five, and the graph is smaller without."""
    modules: list[Any] = list(network.modules())
    for module in modules:
        if hasattr(module, "fused_attn"):  # timm's name for the choice
            module.fused_attn = False


def _program(network: StudentNetwork) -> Any:
    """The network as torch's ``ONNXProgram``; its metadata describe its input."""
    program: Any = torch.onnx.export(
        network,
        **network.exporter_arguments(),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
    )
    for node in program.model.graph:  # lines of source code, with this machine's paths
        node.metadata_props.clear()
    program.model.metadata_props.update(network.metadata())
    return program


def _session(runtime: Any, file: Path) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _run(session: Any, images: Tensor) -> Tensor:
    return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
