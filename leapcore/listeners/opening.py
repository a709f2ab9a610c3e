"""What a run shows before its first step: its arguments, and which models meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from leapcore.plugins.events import ModelFacts, RunStart
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import CurriculumSpec, Spec
from leapcore.spec.options import options_model
from leapcore.spec.section import flat


def arguments(spec: Spec, overrides: Sequence[str], folder: Path) -> Padding:
    """The overrides as they were given; of the resolved spec what differs from the defaults, by section."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in _arguments(spec, overrides, folder):
        grid.add_row(label, Text(value))
    return Padding(grid, (0, 0, 0, 2), expand=False)


def _arguments(spec: Spec, overrides: Sequence[str], folder: Path) -> Iterator[tuple[str, str]]:
    for number, override in enumerate(overrides):
        yield "" if number else "--set", override
    yield "name", spec.name
    yield "results", str(folder)
    sections = spec.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
    sections["curriculum"] = _chosen(spec.curriculum)
    for name, teacher in spec.teachers.items():
        if teacher.curriculum:
            sections["teachers"][name]["curriculum"] = _chosen(teacher.curriculum)
    for section, keys in sections.items():
        yield section, ", ".join(f"{key} {_short(value)}" for key, value in flat(keys))
    yield "the rest", f"as by default; all of it in {folder / 'spec.yaml'}"


def _chosen(curriculum: CurriculumSpec) -> dict[str, Any]:
    """A scheduler and those of its options that differ from its own defaults."""
    model = options_model(installed_plugins().get("schedulers", curriculum.scheduler))
    usual = {name: field.default for name, field in model.model_fields.items()}
    options = curriculum.options.items()
    return {"scheduler": curriculum.scheduler} | {k: v for k, v in options if v != _plain(usual.get(k))}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, tuple) else value  # a duration


def _short(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def models(start: RunStart) -> Table:
    """Teachers and student side by side, a row per fact."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for name in (*start.teachers, "student"):
        table.add_column(escape(name), overflow="fold")
    for cells in zip(*map(_column, (*start.teachers.values(), start.student)), strict=True):
        label = cells[0][0]
        values = [value for _, value in cells]
        differs = label in ("image", "tokens", "mean", "std") and len(set(values)) > 1
        table.add_row(label, *values, style="yellow" if differs else "")
    return table


def _column(facts: ModelFacts) -> list[tuple[str, str]]:
    first, last = facts.widths
    return [
        ("model", escape(facts.name)),
        ("weights", escape(facts.weights)),
        ("layers", str(facts.layers)),
        ("width", str(last) if first == last else f"{first} to {last}"),
        ("parameters", f"{facts.parameters:,}"),
        ("MACs per image", f"{facts.macs / 1e6:,.1f} M"),
        ("image", "{} x {} pixels".format(*facts.image_size)),
        ("tokens", _tokens(facts)),
        ("mean", _numbers(facts.mean)),
        ("std", _numbers(facts.std)),
    ]


def _tokens(facts: ModelFacts) -> str:
    """``4 x 4 + 1``; where deeper layers have fewer, ``56 x 56 to 7 x 7``."""
    grids = [f"{grid[0]} x {grid[1]}" if grid else str(facts.tokens) for grid in facts.grids]
    prefix = f" + {facts.prefix_tokens}" if facts.prefix_tokens else ""
    return " to ".join(dict.fromkeys(grids)) + prefix


def _numbers(values: Sequence[float]) -> str:
    same = len(set(values)) == 1
    return " ".join(f"{value:.4g}" for value in (values[:1] if same else values))


def differences(start: RunStart) -> Iterator[str]:
    """In what the models differ, and what is done about it: a line each."""
    student, size = start.student, start.spec.data.image_size
    teachers = start.teachers.values()
    if any((facts.mean, facts.std) != (student.mean, student.std) for facts in teachers):
        yield "normalisation differs: each model gets its own mean and std"
    sizes = {name: facts.image_size for name, facts in (*start.teachers.items(), ("student", student))}
    if other := [name for name, own in sizes.items() if own != (size, size)]:
        yield f"image sizes differ: views of {size} x {size} are resized for {', '.join(other)}"
    if any(facts.widths[1] != student.widths[1] for facts in teachers):
        yield "widths differ: linear heads project the student to the teacher's width"
    if any(set(facts.grids) != {student.grids[1]} for facts in teachers):
        yield f"tokens differ: {_brought_together(start)}"
    if any(bool(facts.prefix_tokens) != bool(student.prefix_tokens) for facts in teachers):
        yield "one has no class token: its mean token stands for the image"


def _brought_together(start: RunStart) -> str:
    if not all((start.student.grids[1], *(facts.grids[1] for facts in start.teachers.values()))):
        return "without places in common, pooled vectors are compared"
    if start.spec.objective.grid == "larger":
        return "the smaller grid is stretched (objective.grid: larger)"
    return "the larger grid is averaged down (objective.grid: smaller)"
