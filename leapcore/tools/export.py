"""The student of a finished or stopped run, as files that others can load."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from safetensors import SafetensorError

from leapcore.checkpoints.files import Checkpoint, Checkpoints
from leapcore.core.distiller import student_weights
from leapcore.core.flops import FlopsLedger
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import CheckpointError, OutputError
from leapcore.export.formats import ExportedFile, requested_formats, write_format
from leapcore.export.model_card import Snapshot, write_model_card
from leapcore.export.student import export_student, load_line, load_line_here
from leapcore.models.build import backbone_of
from leapcore.runs.names import CHECKPOINTS, EXPORTS, STUDENT, is_run
from leapcore.runs.reader import Run
from leapcore.spec import BackboneSpec
from leapcore.tools.resolve import resolve_model


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


class _Student(NamedTuple):
    """A student as it was after a step.

    Attributes:
        checkpoint: Name of its checkpoint.
        provider: The student.
        crop: Share of each side that its evaluation keeps.
        snapshot: Its figures.
    """

    checkpoint: str
    provider: LayerFeatureProvider
    crop: float
    snapshot: Snapshot


def export_run(
    run: Path, *, checkpoint: str | None = None, output: Path | None = None, formats: Iterable[str] = ()
) -> Exported:
    """Export the student from a checkpoint, whatever ZeRO stage and number of processes it was made with.

    Args:
        run: The run's folder.
        checkpoint: Which one; the latest if None, and the student of the run's end where there is none.
        output: Where to; ``exports/<checkpoint>`` in the run's folder if None, which is replaced.
        formats: ``"onnx"`` writes ``student.onnx`` too, ``"pt2"`` ``student.pt2``; both are checked against
            torch. The weights, as timm reads them, are always there.

    Raises:
        CheckpointError: There is none, or it is broken.
        OutputError: The output folder is in use, a format is unknown or cannot be made; nothing is written.
    """
    names = requested_formats(formats)
    _check_run(run)
    student = _load(run, checkpoint)
    folder = output or run / EXPORTS / student.checkpoint
    if output and output.exists() and (output.is_file() or any(output.iterdir())):
        raise OutputError(f"output '{output}' is not empty", "Name a new folder with --output.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".export.") as beside:
            draft = Path(beside) / STUDENT
            files = _write(Run(run), student, draft, names)
            if output is None:
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(draft, folder, dirs_exist_ok=True)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"the student cannot be written to '{folder}': {error}", "Name another folder with --output."
        ) from error
    return Exported(student.checkpoint, folder, load_line(folder), load_line_here(folder), files)


def _check_run(run: Path) -> None:
    if not run.is_dir():
        raise CheckpointError(
            f"'{run}' is no folder of a run", "Give the folder that a run wrote, such as runs/NAME."
        )
    if run.name == STUDENT and is_run(run.parent):
        raise CheckpointError(f"'{run}' is a student's folder", f"Name its run: leapcore export {run.parent}")


def _load(run: Path, checkpoint: str | None) -> _Student:
    checkpoints = Checkpoints(run / CHECKPOINTS)
    if checkpoint is None and not checkpoints.names() and _has_student(run):
        return _at_end(run)
    return _from_checkpoint(checkpoints.load(checkpoint), Run(run))


def _has_student(run: Path) -> bool:
    return bool(Run(run).summary.student) and (run / STUDENT).is_dir()


def _at_end(run: Path) -> _Student:
    """The student that the run itself wrote."""
    resolved, records = resolve_model(str(run / STUDENT)), Run(run)
    provider = backbone_of(resolved.backbone, resolved.image_size).eval()
    return _Student(f"step-{records.steps:08}", provider, resolved.crop, Snapshot.at_end(records))


def _from_checkpoint(checkpoint: Checkpoint, run: Run) -> _Student:
    state = checkpoint.state
    data, step, ledger = state["spec"]["data"], state["step"], FlopsLedger(**state["ledger"])
    provider = backbone_of(BackboneSpec(**state["student"]), data["image_size"]).eval()
    provider.load_state_dict(student_weights(checkpoint.weights))
    snapshot = Snapshot(
        step=step,
        accuracy=run.accuracy_at(step),
        flops={"spent": ledger.spent, "baseline": ledger.baseline, "saved": ledger.saved},
        training_seconds=state["seconds"],
        parameters=sum(parameter.numel() for parameter in provider.parameters()),
    )
    return _Student(checkpoint.path.name, provider, data["crop"], snapshot)


def _write(run: Run, student: _Student, folder: Path, formats: Sequence[str]) -> list[ExportedFile]:
    export_student(student.provider, folder, student.crop)
    files = [write_format(name, student.provider, folder) for name in formats]
    write_model_card(run, folder, student.snapshot, files)
    return files
