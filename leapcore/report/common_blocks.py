"""Pictures and tables of runs that the reports of one run, of several and of a bench have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from leapcore.plugins.events import CkaMap
from leapcore.report.document import Picture, Table
from leapcore.report.figures.curves import Line, Plot
from leapcore.report.figures.maps import cka_map, cka_scale
from leapcore.report.figures.style import Style
from leapcore.report.numbers import NOTHING
from leapcore.runs.reader import Run

WALK = (
    "Above: the teacher layer that is the target, as a share of the teacher's depth (1 is its last layer). "
    "Below: linear CKA of the projected student with that layer, where the method measures it; it falls when "
    "a deeper layer takes its place."
)
CURVES = (
    "Above: training loss, which is measured against the target of the moment, so that methods and layers "
    "have losses of their own. Below: kNN accuracy on the validation images, in %, where it was evaluated."
)
AVERAGED = "Curves of more than 200 points are drawn as means of neighbouring points."
CKA = (
    "Linear CKA of every student layer (upwards) with every teacher layer (to the right), both counted from "
    "1; 0 is dark blue, 1 yellow. The first and the last moment that was measured, and one between them if "
    "there is one."
)


def walk_plots(runs: Sequence[tuple[Run, str, int | None, Style]]) -> list[Plot]:
    """Target and alignment of runs, each with its teacher, that one's depth and its look."""
    targets, alignments = [], []
    for run, teacher, depth, style in runs:
        steps, layers = run.walk(teacher)
        if depth:
            targets.append(Line(steps, [layer / depth for layer in layers], style, stairs=True))
        alignments.append(Line(*run.alignment(teacher), style))
    return [
        Plot("target depth", targets, (0, 1.05)),
        Plot("alignment (CKA)", alignments),
    ]


def learning_plots(
    runs: Iterable[tuple[Run, Style]], place: Callable[[Run, Sequence[int]], Sequence[float]] | None = None
) -> list[Plot]:
    """Loss and kNN accuracy of runs, over the steps or over where ``place`` puts those."""
    losses, accuracies = [], []
    for run, style in runs:
        steps, values = run.curve("loss")
        moments, shares = run.curve("knn")
        points = (steps, moments) if place is None else (place(run, steps), place(run, moments))
        losses.append(Line(points[0], values, style))
        accuracies.append(Line(points[1], [100 * share for share in shares], style, markers=True))
    return [Plot("loss", losses), Plot("kNN accuracy, %", accuracies)]


def cka_panels(run: Run, title: str) -> list[str]:
    """The maps of a run: first, middle and last, of each teacher."""
    by_teacher: dict[str, list[tuple[int, CkaMap]]] = {}
    for step, cka in run.maps:
        by_teacher.setdefault(cka.teacher, []).append((step, cka))
    panels = []
    for teacher, maps in by_teacher.items():
        whose = f"{title}{teacher}, " if len(by_teacher) > 1 else title
        shown = dict.fromkeys((0, (len(maps) - 1) // 2, len(maps) - 1))
        panels += [cka_map(f"{whose}step {step:,}", cka) for step, cka in map(maps.__getitem__, shown)]
    return panels


def cka_picture(panels: list[str], title: str = "", *, folded: bool = False) -> list[Picture]:
    """The maps with their scale; none without a map."""
    caption = f"{title}. {CKA}" if title else CKA
    legend = [("CKA from 0 to 1", cka_scale())]
    return [Picture(caption, panels, legend, folded, title, wide=17)] if panels else []


def versions(runs: Iterable[Run]) -> list[Table]:
    """A row for each machine with its versions, and how many runs it did; none if no run noted any."""
    counts = Counter(tuple((k, str(v)) for k, v in run.summary.machine.items()) for run in runs)
    counts.pop((), None)
    if not counts:
        return []
    keys = list(dict.fromkeys(key for machine in counts for key, _ in machine))
    rows = [
        [*(dict(machine).get(key, NOTHING) for key in keys), str(count)] for machine, count in counts.items()
    ]
    caption = "As each run noted when it ended. Seconds can be compared within a machine only."
    return [Table([*keys, "runs"], rows, caption, stubs=len(keys))]


def small_multiples(
    caption: str, panels: Sequence[str], legend: Sequence[tuple[str, str]] = (), wide: float = 20
) -> list[Picture]:
    """A picture of the panels that have something to show; none if no panel has."""
    shown = [panel for panel in panels if panel]
    return [Picture(caption, shown, legend, wide=wide)] if shown else []
