"""The report of a single run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from leapcore.report.common_blocks import (
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
from leapcore.report.document import Block, Code, Document, Section, Table
from leapcore.report.figures.curves import Line, Plot, over_steps
from leapcore.report.figures.style import INK, Style
from leapcore.report.numbers import NOTHING, counted, flops, percent, seconds
from leapcore.report.output_files import WrittenReport, write_report
from leapcore.runs.reader import Run
from leapcore.runs.state import State

_STYLE = Style("#0072B2", "-", "o")
_ENDED = {
    State.FINISHED: "finished",
    State.FAILED: "failed",
    State.INTERRUPTED: "was interrupted",
    State.DEAD: "died",
}
_LABELS = {
    "knn": "kNN",
    "linear": "linear probe",
    "linear_best": "linear probe, best epoch",
    "linear_top5": "linear probe, top-5",
}


def write_run_report(folder: Path) -> WrittenReport:
    """Write ``report.html`` and ``report.md`` of a run, finished or not.

    Raises:
        ReportError: The folder cannot be written.
    """
    return write_report(run_document(Run(folder)), folder)


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
    steps, ended = counted(run.steps, "step"), _ENDED.get(run.state)
    state = f"The run {ended} after {steps}" if ended else f"The run is {run.state}, with {steps} so far"
    sentences = [f"{state}: {run.error}." if run.error else f"{state}."]
    spent, saved = run.summary.flops["spent"], run.summary.flops["saved"]
    if not math.isnan(saved):
        sentences.append(
            f"Training took {flops(spent)} FLOPs, {percent(saved, 1)} % fewer than "
            "with the teacher's last layer throughout (2 FLOPs per multiply-add; evaluation is not included)."
        )
    if run.changes:
        advances = sum(change.previous > 0 for change in run.changes)
        sentences.append(
            f"Its target moved {counted(advances, 'time')} and is layer {run.changes[-1].target}."
        )
    if run.state is not State.FINISHED:
        sentences.append("Final figures are missing until it finishes.")
    return sentences


def _result(run: Run) -> list[Block]:
    return [table for table in (accuracy_table(run.summary.accuracy), _costs(run)) if table.rows]


def accuracy_table(shares: Mapping[str, float]) -> Table:
    """Accuracies of a student beside its teachers', which are named ``teacher_…``."""
    names = [name for name in shares if not name.startswith("teacher_")]
    rows = [[_LABELS.get(name, name), percent(shares[name]), _of_teacher(shares, name)] for name in names]
    caption = (
        "Shares of the validation images, or mean average precision, in %. The teacher is evaluated likewise."
    )
    return Table(["accuracy", "student, %", "teacher, %"], rows, caption)


def _of_teacher(shares: Mapping[str, float], name: str) -> str:
    """The teacher's accuracy; of several teachers each with its name."""
    key = f"teacher_{name}"
    keys = [one for one in shares if key in (one, one.partition("/")[0])]
    named = [f"{one.partition('/')[2]} {percent(shares[one])}".strip() for one in keys]
    return ", ".join(named) or NOTHING


def _costs(run: Run) -> Table:
    totals, time = run.summary.flops, run.summary.time
    rows = [[f"FLOPs: {part}", flops(count)] for part, count in totals["spent_by_part"].items()]
    if not math.isnan(totals["spent"]):
        rows.append(["FLOPs spent", flops(totals["spent"])])
        rows.append(["FLOPs at the last layer throughout", flops(totals["baseline"])])
        rows.append(["FLOPs saved", f"{percent(totals['saved'], 1)} %"])
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
