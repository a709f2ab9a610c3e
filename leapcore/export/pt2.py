"""Writing a trained student as torch's own ``.pt2`` file, and checking the file before it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.export import ExportedProgram

from leapcore.core.provider import LayerFeatureProvider
from leapcore.export.check import checked_deviation, draft_of
from leapcore.export.network import StudentNetwork, require_images

METADATA = "leapcore.json"  # the name of the extra file within


def export_pt2(student: LayerFeatureProvider, path: Path) -> float:
    """Write a student's network by ``torch.export``, and compare what the file computes with the student.

    It takes and returns what :func:`leapcore.export.onnx.export_onnx` describes; the extra file
    ``leapcore.json`` within holds the same metadata. ``torch.export.load(path).module()`` runs it without
    timm and leapcore. torch does not promise yet that newer versions read the file, and loads it with pickle:
    it is for machines that one controls, ONNX for others.

    Args:
        student: The provider, on any device, in training or not; it is not touched.
        path: The file, which ends in ``.pt2``; its folder is made if it is not there. An earlier file is
            replaced, but only once the new one is whole and checked.

    Returns:
        The largest absolute deviation from the student, as a share of the largest absolute feature.

    Raises:
        OutputError: The student cannot be exported, such as where its course depends on the batch size; the
            file gives other features; or it cannot be written. No new file is left behind.
    """
    require_images(student, ".pt2")
    with draft_of(path, ".pt2", "torch") as draft:
        network = StudentNetwork.copied(student)
        references = network.references()
        program = torch.export.export(network, **network.exporter_arguments(), strict=False)
        _remove_source_lines(program)
        torch.export.save(program, str(draft), extra_files={METADATA: json.dumps(network.metadata())})
        return checked_deviation(torch.export.load(str(draft)).module(), references, "torch.export")


def _remove_source_lines(program: ExportedProgram) -> None:
    """They hold this machine's paths."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
