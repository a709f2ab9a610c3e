"""The student of a run that was trained somewhere, sometime, as files that others can load."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from safetensors import SafetensorError

from leapcore.checkpoints.files import Checkpoint, Checkpoints
from leapcore.core.distiller import student_weights
from leapcore.core.flops import FlopsLedger
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import CheckpointError, OutputError
from leapcore.export.model_card import write_model_card
from leapcore.export.student import export_student, load_line, load_line_here
from leapcore.report.card import ExportedFile, Moment
from leapcore.runs.names import CHECKPOINTS, EXPORTS, STUDENT, is_run
from leapcore.runs.reader import Run
from leapcore.spec import BackboneSpec
from leapcore.tools.models import found_model
from leapcore.train.components import backbone


class Exported(NamedTuple):
    """What was written.

    Attributes:
        checkpoint: Name of the checkpoint that the student was taken from.
        folder: Where its weights and its model card are, in timm's local-dir format where it is a timm model.
        load: The line of Python that loads the weights.
        load_here: The same for this machine, where that line does not work here.
        files: The other formats.
    """

    checkpoint: str
    folder: Path
    load: str
    load_here: str
    files: list[ExportedFile]


class _Taken(NamedTuple):
    """A student as it was at one moment.

    Attributes:
        name: Of its checkpoint.
        student: The student.
        crop: Share of each side that its evaluation keeps.
        moment: What was known then.
    """

    name: str
    student: LayerFeatureProvider
    crop: float
    moment: Moment


def export_run(
    run: Path, *, checkpoint: str | None = None, output: Path | None = None, formats: Collection[str] = ()
) -> Exported:
    """Export the student from a checkpoint, whatever ZeRO stage and number of processes it was made with.

    Args:
        run: The run's folder.
        checkpoint: Which one; the latest if None, and the student of the run's end where there is none.
        output: Where to; ``exports/<checkpoint>`` in the run's folder if None, which is replaced.
        formats: ``"onnx"`` writes ``student.onnx`` too, ``"torchscript"`` ``student.torchscript.pt``; both
            are checked against torch. The weights, as timm reads them, are always there.

    Raises:
        CheckpointError: There is none, or it is broken.
        OutputError: The output folder is in use, or a format cannot be made; then nothing is written.
    """
    if not run.is_dir():
        raise CheckpointError(
            f"'{run}' is no folder of a run", "Give the folder that a run wrote, such as runs/NAME."
        )
    if run.name == STUDENT and is_run(run.parent):
        raise CheckpointError(f"'{run}' is a student's folder", f"Name its run: leapcore export {run.parent}")
    taken = _taken(run, checkpoint)
    folder = output or run / EXPORTS / taken.name
    if output and output.exists() and (output.is_file() or any(output.iterdir())):
        raise OutputError(f"output '{output}' is not empty", "Name a new folder with --output.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".export.") as aside:
            draft = Path(aside) / STUDENT
            written = _write(run, taken, draft, formats)
            if output is None:
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(draft, folder, dirs_exist_ok=True)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the student cannot be written to '{folder}': {error}", "Name another folder with --output."
        ) from error
    return Exported(taken.name, folder, load_line(folder), load_line_here(folder), written)


def _taken(run: Path, checkpoint: str | None) -> _Taken:
    checkpoints, told = Checkpoints(run / CHECKPOINTS), Run(run)
    at_end = told.summary.student and (run / STUDENT).is_dir()
    if checkpoint is None and at_end and not checkpoints.names():
        found = found_model(str(run / STUDENT))
        student = backbone(found.backbone, found.image_size).eval()
        return _Taken(f"step-{told.steps:08}", student, found.crop, Moment.end(told))
    saved = checkpoints.load(checkpoint)
    student = _student(saved)
    return _Taken(
        saved.path.name, student, saved.state["spec"]["data"]["crop"], _moment(saved, student, told)
    )


def _write(run: Path, taken: _Taken, folder: Path, formats: Collection[str]) -> list[ExportedFile]:
    export_student(taken.student, folder, taken.crop)
    files = [_exported(taken.student, folder, name) for name in formats if name != "timm"]
    write_model_card(Run(run), folder, taken.moment, files)
    return files


def _exported(student: LayerFeatureProvider, folder: Path, format_name: str) -> ExportedFile:
    size = student.image_input.size
    if format_name == "onnx":
        from leapcore.export.onnx import export_onnx

        return ExportedFile("ONNX", "student.onnx", size, export_onnx(student, folder / "student.onnx"))
    from leapcore.export.torchscript import export_torchscript

    name = "student.torchscript.pt"
    return ExportedFile("TorchScript", name, size, export_torchscript(student, folder / name))


def _student(saved: Checkpoint) -> LayerFeatureProvider:
    student = backbone(BackboneSpec(**saved.state["student"]), saved.state["spec"]["data"]["image_size"])
    student.load_state_dict(student_weights(saved.weights))
    return student.eval()


def _moment(saved: Checkpoint, student: LayerFeatureProvider, run: Run) -> Moment:
    """What was known after the checkpoint's step."""
    step, ledger = saved.state["step"], FlopsLedger(**saved.state["ledger"])
    return Moment(
        step=step,
        accuracy=run.accuracy_at(step),
        flops={"spent": ledger.spent, "baseline": ledger.baseline, "saved": ledger.saved},
        training_seconds=saved.state["seconds"],
        parameters=sum(parameter.numel() for parameter in student.parameters()),
    )
