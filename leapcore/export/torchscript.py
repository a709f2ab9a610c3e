"""Writing a trained student as TorchScript, and checking the file before it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from leapcore.core.provider import LayerFeatureProvider
from leapcore.export.tracing import (
    TRACED_BATCH,
    checked_deviation,
    network_and_cases,
    quietly,
    require_images,
)

METADATA = "leapcore.json"  # the name of the extra file within


def export_torchscript(student: LayerFeatureProvider, path: Path) -> float:
    """Trace a student's network, and compare what the file gives with the eager model.

    It takes and returns what :func:`leapcore.export.onnx.export_onnx` describes; the extra file
    ``leapcore.json`` within holds the same metadata. ``torch.jit.load(path)`` runs it without timm and
    leapcore, and so does libtorch. torch deprecates TorchScript in favour of ``torch.export``, whose files it
    does not promise to read in newer versions yet, and reads with pickle: hence this format still.

    Args:
        student: The provider, on any device, in training or not; it is not touched.
        path: The file; its folder is made if it is not there. An earlier file is replaced, but only once the
            new one is whole and checked.

    Returns:
        The largest absolute deviation from the eager model, as a share of the largest absolute feature.

    Raises:
        OutputError: The student cannot be traced, its trace gives other features (such as where its course
            depends on the batch size), or the file cannot be written. No new file is left behind.
    """
    require_images(student, "TorchScript")
    draft = path.with_name(f".{path.name}.partial")
    with quietly(path, "TorchScript", "torch"):
        network, cases = network_and_cases(student)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            traced = torch.jit.trace(network, (network.random_images(TRACED_BATCH),), check_trace=False)
            torch.jit.save(traced, str(draft), _extra_files={METADATA: json.dumps(network.metadata())})
            deviation = checked_deviation(torch.jit.load(str(draft)), cases, "TorchScript")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return deviation
