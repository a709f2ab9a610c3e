"""The student of a run that was trained somewhere, sometime, as files that others can load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError

from leapcore.core.provider import LayerFeatureProvider
from leapcore.engine.checkpoint import Checkpoint, Checkpoints
from leapcore.engine.components import backbone
from leapcore.errors import CheckpointError, OutputError
from leapcore.export import export_student
from leapcore.spec import BackboneSpec

EXPORTS = "exports"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        checkpoint: Name of the checkpoint that the student was taken from.
        folder: Where its weights are, in timm's local-dir format where it is a timm model.
        onnx: The ONNX file, None if none was asked for.
        deviation: Its largest relative deviation from torch.
    """

    checkpoint: str
    folder: Path
    onnx: Path | None = None
    deviation: float = 0.0


def export_run(
    run: Path, *, checkpoint: str | None = None, output: Path | None = None, onnx: bool = False
) -> Exported:
    """Export the student from a checkpoint, whatever ZeRO stage and number of processes it was made with.

    Args:
        run: The run's folder.
        checkpoint: Which one; the latest if None.
        output: Where to; ``exports/<checkpoint>`` in the run's folder if None, which is replaced.
        onnx: Write ``student.onnx`` too, checked against torch.

    Raises:
        CheckpointError: There is none, or it is broken.
        OutputError: The output folder is in use, or the ONNX file cannot be made.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"'{run}' is no folder of a run", "Give the folder that a run wrote, such as runs/NAME."
        )
    saved = Checkpoints(run / "checkpoints").load(checkpoint)
    folder = output or run / EXPORTS / saved.path.name
    if output and output.exists() and (output.is_file() or any(output.iterdir())):
        raise OutputError(f"output '{output}' is not empty", "Name a new folder with --output.")
    if onnx:  # found out now, a missing package leaves nothing behind
        from leapcore.onnx_export import export_onnx, onnxruntime

        onnxruntime()
    student = _student(saved)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        export_student(student, folder)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the student cannot be written to '{folder}': {error}", "Name another folder with --output."
        ) from error
    if not onnx:
        return Exported(saved.path.name, folder)
    path = folder / "student.onnx"
    return Exported(saved.path.name, folder, path, export_onnx(student, path))


def _student(saved: Checkpoint) -> LayerFeatureProvider:
    prefix = "student."
    weights = {
        name.removeprefix(prefix): tensor for name, tensor in saved.weights.items() if name.startswith(prefix)
    }
    student = backbone(BackboneSpec(**saved.state["student"]), saved.state["spec"]["data"]["image_size"])
    student.load_state_dict(weights)
    return student.eval()
