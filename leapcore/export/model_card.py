"""A student's model card: the values of its run's files in one template, ``model_card.md.jinja``.

A value that is not known is left out. Nothing here uses the network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData

from leapcore.compat import import_timm
from leapcore.export.formats import ExportedFile
from leapcore.files import write_whole
from leapcore.models.timm_models import published_license
from leapcore.plugins.events import TargetChange
from leapcore.report.measures import training_seconds
from leapcore.report.numbers import NOTHING, counted, flops, percent, seconds
from leapcore.report.run_report import accuracy_table
from leapcore.runs.json_files import read_json_object
from leapcore.runs.reader import Run

CARD = "README.md"  # what the Hugging Face hub shows of a repository
_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
_LICENSE = "unknown"  # one of the hub's words
_VERSIONS = ("leapcore", "torch", "timm", "deepspeed", "python")


@dataclass(frozen=True)
class Snapshot:
    """A student as it was after a step, which may be an earlier one than its run's last.

    Attributes:
        step: The step.
        accuracy: Measured then, as shares; may be empty.
        flops: Of training until then: spent, baseline and saved.
        training_seconds: Until then.
        parameters: How many it has.
    """

    step: int
    accuracy: Mapping[str, float]
    flops: Mapping[str, Any]
    training_seconds: float
    parameters: int

    @classmethod
    def at_end(cls, run: Run) -> Snapshot:
        """The student of a run's end, from its summary."""
        end, parameters = run.summary, run.summary.student["parameters"]
        return cls(end.steps, end.accuracy, end.flops, training_seconds(run), parameters)


def write_model_card(run: Run, folder: Path, snapshot: Snapshot, files: Sequence[ExportedFile] = ()) -> None:
    """Write the model card of a student.

    Args:
        run: Where the student comes from; may be unfinished.
        folder: The student's; a ``config.json`` in it means that timm reads it.
        snapshot: The student's figures.
        files: Other formats that lie in the folder.

    Raises:
        OSError: It cannot be written.
    """
    config = read_json_object(folder / "config.json")
    card = ModelCard.from_template(
        _metadata(run, "leapcore" if config is None else "timm"),
        template_path=str(_TEMPLATE),
        **_values(run, snapshot),
        timm=config and {**config["pretrained_cfg"], "shape": _shape(folder)},
        files=files,
        escaped=_escaped,
        repr=repr,
    )
    write_whole(folder / CARD, f"{str(card).rstrip()}\n")


def _metadata(run: Run, library: str) -> ModelCardData:
    """The card's head, in the hub's words."""
    tags = dict.fromkeys(["image-feature-extraction", "knowledge-distillation", "leapcore", library])
    source, _, dataset = str(run.data.get("source", "")).partition("/")
    return ModelCardData(
        library_name=library,
        pipeline_tag="image-feature-extraction",
        license=_LICENSE,
        tags=list(tags),
        datasets=[dataset] if source in ("hfds", "hfids") else None,
    )


def _values(run: Run, snapshot: Snapshot) -> dict[str, Any]:
    """What the template prints of a run and its student."""
    machine = run.summary.machine
    longest_fence = max(map(len, re.findall("`+", run.spec)), default=0)
    return {
        "run": run,
        "student": run.student_model,
        "teachers": [model.described for model in run.teacher_models.values()],
        "step": snapshot.step,
        "parameters": counted(snapshot.parameters, "parameter"),
        "accuracy": _accuracy(snapshot.accuracy),
        "figures": [(name, figure) for name, figure in _figures(run, snapshot) if figure],
        "licenses": _published_licenses(run),
        "versions": ", ".join(f"{name} {machine[name]}" for name in _VERSIONS if name in machine),
        "device": machine.get("device"),
        "fence": "`" * max(3, longest_fence + 1),
    }


def _shape(folder: Path) -> tuple[int, ...] | None:
    """Shape of an exported timm model's features of one image; None where it cannot be computed.

    The model itself is asked, on the meta device: some have layers behind ``num_features``.
    """
    timm = import_timm()
    try:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(f"local-dir:{folder}", pretrained=False).eval()
            features = model(torch.empty(1, *model.pretrained_cfg["input_size"]))
    except Exception:  # an operator without a meta kernel, or a model that reads its weights' values
        return None
    return tuple(features.shape)


def _accuracy(shares: Mapping[str, float]) -> list[list[str]]:
    """Heading and rows of the accuracies; without a column for a teacher that was not evaluated."""
    table = accuracy_table(shares)
    width = 3 if any(row[2] != NOTHING for row in table.rows) else 2
    return [row[:width] for row in (table.columns, *table.rows)] if table.rows else []


def _figures(run: Run, snapshot: Snapshot) -> list[tuple[str, str]]:
    """The table of the training; a figure that is not known is empty."""
    data, batch, cost = run.data, (run.settings.get("train") or {}).get("batch_size"), snapshot.flops
    size = data.get("image_size")
    images = f"{data.get('source')}, training split {data.get('train')}, {size} × {size} pixels"
    return [
        *((name, _teacher(run, name)) for name in run.teacher_models),
        ("student started from", run.student_model.start if run.settings else ""),
        ("images", images if data else ""),
        ("steps", f"{snapshot.step:,} of {batch} images" if batch else f"{snapshot.step:,}"),
        ("FLOPs spent", _known(cost["spent"], flops)),
        ("FLOPs at the last layer throughout", _known(cost["baseline"], flops)),
        ("FLOPs saved", _known(cost["saved"], lambda share: f"{percent(share, 1)} %")),
        ("training time", _known(snapshot.training_seconds, seconds)),
        *_target_layers(run, snapshot.step),
    ]


def _known(figure: float, form: Callable[[float], str]) -> str:
    return "" if math.isnan(figure) else form(figure)


def _teacher(run: Run, name: str) -> str:
    model, facts = run.teacher_models[name], run.summary.teachers.get(name)
    size = f", {facts['layers']} layers, {counted(facts['parameters'], 'parameter')}" if facts else ""
    return model.described + size


def _target_layers(run: Run, step: int) -> list[tuple[str, str]]:
    """Each teacher's target layers until a step."""
    several = len(run.teachers) > 1
    rows = []
    for teacher in run.teachers:
        changes = [change for change in run.changes if change.teacher == teacher and change.step <= step]
        name = f"target layers of {teacher}" if several else "target layers"
        rows.append((name, " → ".join(map(_target, changes))))
    return rows


def _target(change: TargetChange) -> str:
    reason = f" (step {change.step:,}: {change.reason})" if change.previous else ""
    return f"{change.target}{reason}"


def _published_licenses(run: Run) -> dict[str, str]:
    """The licences that timm states of the published weights that were used, by the model's name."""
    models = [*run.teacher_models.values(), run.student_model]
    licenses = {m.name: published_license(m.name) for m in models if m.weights == "pretrained"}
    return {name: license_name for name, license_name in licenses.items() if license_name}


def _escaped(text: object) -> str:
    """Text in which nothing is HTML or Markdown."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", escape(" ".join(str(text).split()), quote=False))
