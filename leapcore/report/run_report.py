"""The report of a single run."""

from __future__ import annotations

import math
from collections.abc import Mapping

from leapcore.report.document import Block, Code, Document, Section, Table
from leapcore.report.figures.curves import Line, Plot, over_steps
from leapcore.report.figures.style import INK, Style
from leapcore.report.numbers import NOTHING, counted, flops, percent, seconds
from leapcore.report.shared import (
    AVERAGED,
    CURVES,
    WALK,
    cka_panels,
    cka_picture,
    learning_plots,
    small_multiples,
    versions,
    walk_plots,
)
from leapcore.runs.read import Run

_STYLE = Style("#0072B2", "-", "o")
_ENDED = {"finished": "finished", "failed": "failed", "interrupted": "was interrupted"}
_LABELS = {
    "knn": "kNN",
    "linear": "linear probe",
    "linear_best": "linear probe, best epoch",
    "linear_top5": "linear probe, top-5",
}


def run_document(run: Run) -> Document:
    """What a run achieved, as far as it is."""
    sections = [
        Section("Result", _result(run)),
        Section("Way through the teacher", _walk(run)),
        Section("Learning curves", _curves(run)),
        Section("Speed", _speed(run)),
        Section("CKA of all layers", [*cka_picture(cka_panels(run, ""))]),
        Section("Settings", [Code(run.spec, "spec.yaml", folded=True)] if run.spec else []),
        Section("Versions and machine", [*versions([run])]),
    ]
    return Document(run.name, "run", _summary(run), [section for section in sections if section.blocks])


def _summary(run: Run) -> list[str]:
    told = run.summary
    ended = f"The run {_ENDED.get(run.status, f'is {run.status}')} after {counted(run.steps, 'step')}"
    said = [f"{ended}: {told.error}." if told.error else f"{ended}."]
    if not math.isnan(told.flops.saved):
        said.append(
            f"Training took {flops(told.flops.spent)} FLOPs, {percent(told.flops.saved, 1)} % fewer than "
            "with the teacher's last layer throughout (2 FLOPs per multiply-add; evaluation is not included)."
        )
    if run.changes:
        advances = sum(change.previous > 0 for change in run.changes)
        said.append(f"Its target moved {counted(advances, 'time')} and is layer {run.changes[-1].target}.")
    if run.status != "finished":
        said.append("Final figures are missing until it finishes.")
    return said


def _result(run: Run) -> list[Block]:
    return [table for table in (accuracy_table(run.summary.accuracy), _costs(run)) if table.rows]


def accuracy_table(told: Mapping[str, float]) -> Table:
    """Accuracies of a student beside its teachers', which are named ``teacher_…``."""
    names = [name for name in told if not name.startswith("teacher_")]
    rows = [[_LABELS.get(name, name), percent(told[name]), _of_teacher(told, name)] for name in names]
    caption = (
        "Shares of the validation images, or mean average precision, in %. The teacher is evaluated likewise."
    )
    return Table(["accuracy", "student, %", "teacher, %"], rows, caption)


def _of_teacher(told: Mapping[str, float], name: str) -> str:
    """The teacher's accuracy; of several teachers each with its name."""
    found = [key for key in told if key.partition("/")[0] == f"teacher_{name}" or key == f"teacher_{name}"]
    named = [f"{key.partition('/')[2]} {percent(told[key])}".strip() for key in found]
    return ", ".join(named) or NOTHING


def _costs(run: Run) -> Table:
    told, time = run.summary.flops, run.summary.time
    rows = [[f"FLOPs: {part}", flops(count)] for part, count in told.spent_by_part.items()]
    if not math.isnan(told.spent):
        rows.append(["FLOPs spent", flops(told.spent)])
        rows.append(["FLOPs at the last layer throughout", flops(told.baseline)])
        rows.append(["FLOPs saved", f"{percent(told.saved, 1)} %"])
    labels = {"seconds": "whole run", "training_seconds": "training"}
    rows += [[f"time: {label}", seconds(time[key])] for key, label in labels.items() if key in time]
    if "parameters" in run.summary.student:
        rows.append(["student's parameters", f"{run.summary.student['parameters']:,}"])
    return Table(["cost", "figure"], rows, "FLOPs of training as the ledger counts them, 2 per multiply-add.")


def _walk(run: Run) -> list[Block]:
    several = len(run.teachers) > 1
    panels = [
        over_steps(teacher if several else "", walk_plots([(run, teacher, run.depth(teacher), _STYLE)]))
        for teacher in run.teachers
    ]
    return [*small_multiples(f"{WALK} {AVERAGED}", panels, wide=26)]


def _curves(run: Run) -> list[Block]:
    return [
        *small_multiples(f"{CURVES} {AVERAGED}", [over_steps("", learning_plots([(run, _STYLE)]))], wide=26)
    ]


def _speed(run: Run) -> list[Block]:
    steps, waits = run.curve("data_wait")
    plots = [
        Plot("images per second", [Line(*run.curve("images_per_second"), _STYLE)]),
        Plot("waiting, %", [Line(steps, [100 * wait for wait in waits], Style(INK, "-", "o"))]),
    ]
    caption = (
        "Above: training images per second between two reports. Below: the share of that time spent waiting "
        "for images."
    )
    return [*small_multiples(f"{caption} {AVERAGED}", [over_steps("", plots)], wide=26)]
