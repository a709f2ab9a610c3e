"""A plan's sections about FLOPs and time: tables and drawings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from leapcore.core.flops import FLOPS_PER_MAC, STUDENT_STEP
from leapcore.plan.costs import Costs, Walks
from leapcore.plan.probe import Measured, Probe
from leapcore.plan.scenarios import Scenario
from leapcore.plan.what_if import steady_walks, without_scores
from leapcore.report.document import Block, Picture, Table
from leapcore.report.figures.plans import drawn_walks, step_costs
from leapcore.report.figures.style import styles
from leapcore.report.figures.svg import sample
from leapcore.report.numbers import NOTHING, counted, flops, percent, seconds
from leapcore.runs.forecast import ends
from leapcore.train.teacher import Teacher

ROWS = 14  # of the table of layers, at most
LAST = "last layer throughout"


def whole_run(costs: Costs, courses: Sequence[Scenario]) -> Table:
    """FLOPs by part."""
    known = costs.parts.images is not None
    per = 1 if known else costs.parts.length.total_steps * costs.parts.spec.train.batch_size
    columns, baseline = [_by_part(costs, one) for one in courses], courses[0].ledger.baseline
    rows = [[part, *(flops(column[part] / per) for column in columns), ""] for part in columns[0]]
    rows.append(["total", *(flops(one.spent / per) for one in courses), flops(baseline / per)])
    rows.append(["saved, %", *(percent(one.saved, 1) for one in courses), percent(0, 1)])
    caption = (
        f"FLOPs {'of the whole run' if known else 'per image, a mean over the run'}, 2 per multiply-add, as "
        "its ledger counts them, for walks in which no score moves the target: only limits of time do."
    )
    names = [one.name for one in courses]
    return Table(["FLOPs", *names, LAST], rows, caption, starts=frozenset({len(rows) - 2}))


def _by_part(costs: Costs, course: Scenario) -> dict[str, float]:
    by_part, heads = course.ledger.flops_by_part(), costs.projectors(course.walks)
    parts: dict[str, float] = {
        "teacher" if len(costs.layers) == 1 else "teachers": by_part["teacher"],
        "student, forward and backward": by_part["student"] - heads,
        "projectors": heads,
        "alignment": by_part["alignment"],
        "calibration": by_part["calibration"] if costs.parts.images is not None else math.nan,
    }
    return parts | ({"spared by the cache, at most": -course.spared} if course.spared else {})


def times(costs: Costs, courses: Sequence[Scenario], probed: Probe) -> Iterator[Block]:
    """What the probe measured, and what follows for the run."""
    yield Table(
        ["target layer", "step, ms", "images per second", "waiting for images, %", "peak memory, GB"],
        [_measured_row(costs, one) for one in probed.measured],
        "Medians of ten steps after three. Images fetched ahead can hide a slow loader in so few steps.",
    )
    if costs.parts.images is None:
        return
    walks = {one.name: one.walks for one in courses} | {LAST: without_scores(costs)["fixed"]}
    yield Table(
        ["walk", "training"],
        [[name, seconds(probed.seconds(costs, walk))] for name, walk in walks.items()],
        f"Expected from {counted(len(probed.measured), 'measured layer')} on this machine ({probed.device}), "
        "by a line over FLOPs. Evaluations, checkpoints and the first steps come on top.",
    )


def _measured_row(costs: Costs, one: Measured) -> list[str]:
    layers = ", ".join(str(target + 1) for target in one.targets.values())
    rate = costs.parts.spec.train.batch_size / one.seconds
    peak = NOTHING if one.peak_gb is None else f"{one.peak_gb:.2f}"
    return [layers, f"{1000 * one.seconds:,.1f}", f"{rate:,.0f}", percent(one.waiting, 1), peak]


def by_layer(costs: Costs) -> Iterator[Table]:
    """What a step costs for each target layer of each teacher."""
    several = len(costs.layers) > 1
    others = ", the other teachers at their last layers" if several else ""
    for teacher in costs.parts.teachers:
        owner = f" of {teacher.name}" if several else ""
        shares, rows = _layer_rows(costs, teacher)
        yield Table(
            [f"target layer{owner}", "teacher", "student", "alignment", "step", "of the last, %"],
            rows,
            f"{_unit(costs)[1]} per image while that layer is the target{others}: the student with its "
            "projectors, forward and backward; the alignment, where it is measured, is not in the step.",
            shades=[[0, 0, 0, 0, share] for share in shares],
        )


def drawn_layers(costs: Costs) -> Iterator[Picture]:
    """The same as bars, every layer."""
    for teacher in costs.parts.teachers:
        title = teacher.name if len(costs.layers) > 1 else ""
        drawing = step_costs(title, _stacked(costs, teacher), _unit(costs)[1])
        yield Picture("A step's cost by its target layer, alignment left out.", [drawing], wide=30)


def _layer_rows(costs: Costs, teacher: Teacher) -> tuple[list[float], list[list[str]]]:
    """Of some layers: each step's share of the last layer's, and the cells."""
    layers, rows, shares = costs.layers[teacher.name], [], []
    unit, deepest = _unit(costs)[0], {name: depth - 1 for name, depth in costs.parts.depths.items()}
    for k in _some(len(layers.teacher)):
        step = costs.step(deepest | {teacher.name: k})
        shares.append(step / costs.step(deepest))
        macs = (
            layers.teacher[k],
            STUDENT_STEP * (costs.parts.student_macs + layers.heads[k]),
            layers.scores[k] / costs.parts.spec.train.batch_size,
            step / FLOPS_PER_MAC,
        )
        shown = [f"{FLOPS_PER_MAC * part / unit:,.2f}" if part else "0" for part in macs]
        rows.append([str(k + 1), *shown, percent(shares[-1], 1)])
    return shares, rows


def _stacked(costs: Costs, teacher: Teacher) -> dict[str, list[float]]:
    layers, flop = costs.layers[teacher.name], FLOPS_PER_MAC / _unit(costs)[0]
    student = [flop * STUDENT_STEP * (costs.parts.student_macs + head) for head in layers.heads]
    return {"student and projectors": student, "teacher": [flop * macs for macs in layers.teacher]}


def _some(count: int) -> list[int]:
    """All of so many, or evenly spaced ones with the first and the last."""
    shown = min(count, ROWS)
    return [round(index * (count - 1) / max(1, shown - 1)) for index in range(shown)]


def _unit(costs: Costs) -> tuple[float, str]:
    """In which a step against the last layer has at least one digit before the point."""
    whole = costs.step({name: depth - 1 for name, depth in costs.parts.depths.items()})
    return (1e9, "GFLOPs") if whole >= 1e9 else (1e6, "MFLOPs")


def what_if(costs: Costs) -> Iterator[Table]:
    """Savings of other curricula."""
    steady = steady_walks(costs)
    if steady.paces:
        yield Table(
            ["FLOPs saved, %", *(f"{pace} ep" for pace in steady.paces)],
            [
                [f"from layer {start}", *(percent(share, 1) for share in row)]
                for start, row in zip(steady.starts, steady.saved, strict=True)
            ],
            "By first target (rows) and epochs at each layer (columns), of walks that never ask for a score, "
            f"against the last layer throughout, over {costs.parts.spec.train.duration}.",
            shades=steady.saved,
        )
    rows = [
        [name, *_of_walk(costs, walks), percent(costs.ledger_of(walks, calibrated=False).saved, 1)]
        for name, walks in without_scores(costs).items()
    ]
    yield Table(
        ["scheduler", "mean target layer", "saved, %"],
        rows,
        "Schedulers that go by the clock, with their defaults; no score is measured.",
    )


def _of_walk(costs: Costs, walks: Walks) -> list[str]:
    total = costs.parts.length.total_steps
    means = [sum(stay.steps * (stay.target + 1) for stay in stays) / total for stays in walks.values()]
    return [", ".join(f"{mean:.1f}" for mean in means)]


def drawn_walks_of(costs: Costs, courses: Sequence[Scenario]) -> Iterator[Picture]:
    """The run's own walks beside those of other schedulers."""
    walks: Mapping[str, Walks] = {one.name: one.walks for one in courses} | without_scores(costs)
    walks = {name: walk for name, walk in walks.items() if name != "random"}  # which would cover the others
    looks = styles(list(walks), "fixed")
    for teacher in costs.layers:
        lines = {name: (looks[name], _shares(walk, teacher)) for name, walk in walks.items()}
        legend = [(name, sample(look, name)) for name, look in looks.items()]
        drawing = drawn_walks(teacher if len(costs.layers) > 1 else "", lines)
        yield Picture("The target layer over the run if no score moves it.", [drawing], legend, wide=30)


def _shares(walks: Walks, teacher: str) -> list[tuple[float, int]]:
    """The end of each stay as a share of the run, with its layer."""
    stays = ends(walks[teacher])
    return [(end / stays[-1][0], target + 1) for end, target in stays]
