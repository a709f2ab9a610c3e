"""A plan as a document, for a page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leapcore.plan.advice import advice
from leapcore.plan.costs import Costs
from leapcore.plan.flops_sections import by_layer, drawn_layers, drawn_walks_of, times, what_if, whole_run
from leapcore.plan.memory_sections import disk, memory
from leapcore.plan.probe import Probe
from leapcore.plan.scenarios import Scenario, scenarios
from leapcore.report.document import Block, Document, Section, Text
from leapcore.report.numbers import counted, percent


def document(costs: Costs, probed: Probe | None = None, *, drawings: bool = False) -> Document:
    """What a run will cost.

    Args:
        costs: The run's.
        probed: What its steps took, if that was measured.
        drawings: Draw figures, too.
    """
    courses = scenarios(costs)
    measured = times(costs, courses, probed) if probed else ()
    layers: list[Block] = [*by_layer(costs)]
    others: list[Block] = [*what_if(costs)]
    if drawings:
        layers, others = [*layers, *drawn_layers(costs)], [*others, *drawn_walks_of(costs, courses)]
    sections = [
        Section("Whole run", [whole_run(costs, courses), *measured]),
        Section("By target layer", layers),
        Section(
            "What other curricula would save",
            others,
        ),
        Section("Memory", [*memory(costs, probed)]),
        Section("Disk", [disk(costs, courses[0])]),
        Section("Warnings", [Text(f"{warning.cause}. {warning.remedy}") for warning in advice(costs)]),
        Section("Not known", [Text(text) for text in _unknown(costs, probed)]),
    ]
    shown = [section for section in sections if section.blocks]
    return Document(costs.parts.spec.name, "plan", _summary(costs, courses), shown)


def _summary(costs: Costs, courses: Sequence[Scenario]) -> list[str]:
    parts, batch = costs.parts, costs.parts.spec.train.batch_size
    length = f"{parts.spec.train.duration} with batches of {batch}."
    if parts.images is not None:
        epoch = counted(parts.length.steps_per_epoch, "step")
        length = f"{counted(parts.length.total_steps, 'step')} of {batch} images."
        length += f" {parts.images:,} training images make an epoch of {epoch}."
    saved = percent(max(one.saved for one in courses), 1)
    if not costs.moves:
        return [length, "Its target is the last layer throughout, which saves nothing."]
    return [
        length,
        f"If no score ever moves the target, the curriculum saves {saved} % of the FLOPs of a run against "
        "the last layer throughout; the earlier scores move it, the less it saves.",
    ]


def _unknown(costs: Costs, probed: Probe | None) -> Iterator[str]:
    parts = costs.parts
    if parts.images is None:
        yield (
            f"How many training images there are ({parts.unknown}), and with it the number of steps, FLOPs "
            "of the whole run and the cache's size. Give it with --set data.train_images=N."
        )
    if any(teacher.scheduler.wants_calibration for teacher in parts.teachers):
        yield "Where the walk starts: the calibration chooses a layer in the first step (curriculum.start)."
    if any(teacher.scheduler.alignment for teacher in parts.teachers):
        yield "When scores will move the target: that takes training."
    if probed is None:
        yield "What it takes in seconds: --probe measures ten steps at each of three layers."
