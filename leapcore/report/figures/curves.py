"""Small multiples over steps and FLOPs: walks, learning curves, accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from leapcore.report.figures.style import INK, MUTED, Style
from leapcore.report.figures.svg import svg
from leapcore.report.statistics import Estimate, pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 200
WIDTH = 3.5  # of a panel, in inches


class Line(NamedTuple):
    """A curve: ``stairs`` holds each value up to the next x, and has one x more than values."""

    xs: Sequence[float]
    ys: Sequence[float]
    style: Style
    stairs: bool = False
    markers: bool = False


class Plot(NamedTuple):
    """Axes with their curves."""

    ylabel: str
    lines: Sequence[Line]
    limits: tuple[float, float] | None = None
    height: float = 1.0


class Point(NamedTuple):
    """A method's mean with its runs: (FLOPs, accuracy as a share) each."""

    style: Style
    cost: float
    accuracy: Estimate
    runs: Sequence[tuple[float, float]]


def over_steps(title: str, plots: Sequence[Plot], xlabel: str = "step") -> str:
    """Plots above each other over the steps, or over what ``xlabel`` says.

    Those without a curve are left out; ``""`` if none has one.
    """
    drawn = [plot._replace(lines=[line for line in plot.lines if len(line.ys)]) for plot in plots]
    shown = [plot for plot in drawn if plot.lines]
    if not shown:
        return ""

    def draw(figure: Figure) -> None:
        heights = [plot.height for plot in shown]
        stack: Any = figure.subplots(len(shown), 1, sharex=True, squeeze=False, height_ratios=heights)
        for axes, plot in zip(stack[:, 0], shown, strict=True):
            _fill(axes, plot)
        stack[0, 0].set_title(title)
        stack[-1, 0].set_xlabel(xlabel)
        figure.align_ylabels(stack[:, 0])
        inches = _inches(shown)
        figure.subplots_adjust(0.17, 0.46 / inches, 0.97, 1 - 0.3 / inches, hspace=0.18)

    what, over = ", ".join(plot.ylabel for plot in shown), "steps" if xlabel == "step" else xlabel
    return svg(draw, (WIDTH, _inches(shown)), f"{title}: {what} over {over}")


def _inches(plots: Sequence[Plot]) -> float:
    return 0.8 + 1.25 * sum(plot.height for plot in plots)


def _fill(axes: Axes, plot: Plot) -> None:
    for line in plot.lines:
        look: dict[str, Any] = {"color": line.style.colour, "linestyle": line.style.line, "alpha": 0.8}
        if line.stairs:
            axes.stairs(line.ys, line.xs, baseline=None, linewidth=1.1, **look)
            continue
        xs, ys = averaged(line.xs, line.ys)
        few = line.style.marker if line.markers or len(xs) == 1 else None
        axes.plot(xs, ys, marker=few, markersize=3, linewidth=0.9, **look)
    axes.set_ylabel(plot.ylabel)
    axes.margins(x=0.02)
    if plot.limits:
        axes.set_ylim(*plot.limits)
    axes.locator_params(nbins=5)
    axes.grid(axis="y")


def averaged(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve of at most ``MOST_POINTS`` points: means of neighbours if it has more."""
    size = -(-len(xs) // MOST_POINTS) or 1
    groups = [slice(start, start + size) for start in range(0, len(xs), size)]
    return [_mean(xs[group]) for group in groups], [_mean(ys[group]) for group in groups]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def against_flops(title: str, points: Sequence[Point], ylabel: str) -> str:
    """Accuracy in % against the FLOPs that training took, with the Pareto front of the means."""
    unit, name = flops_unit([point.cost for point in points])

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.17, 0.18, 0.8, 0.71))
        means = [(point.cost / unit, 100 * point.accuracy.mean) for point in points]
        front = pareto_front(means)
        # A front may be a single point.
        ring: dict[str, Any] = {"marker": "o", "markersize": 13, "markerfacecolor": "none"}
        axes.plot(
            *zip(*front, strict=True), color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1, **ring
        )
        for point, (cost, mean) in zip(points, means, strict=True):
            _point(axes, point, cost, mean, unit)
        axes.set(xlabel=f"training FLOPs spent, {name}", ylabel=ylabel)
        axes.set_title(title)
        axes.set_ylim(*_range(points))
        axes.margins(x=0.12)
        axes.locator_params(nbins=5)
        axes.grid()
        axes.set_axisbelow(True)

    return svg(draw, (WIDTH, 2.6), f"{title}: {ylabel} against training FLOPs")


def _range(points: Sequence[Point]) -> tuple[float, float]:
    """From the lowest to the highest run and interval, those of two seeds left out: t is 12.7 for them."""
    values = [value for point in points for _, value in point.runs]
    intervals = [point.accuracy for point in points if point.accuracy.n > 2]
    values += [interval.mean + sign * interval.half for interval in intervals for sign in (-1, 1)]
    low, high = 100 * min(values), 100 * max(values)
    margin = 0.12 * (high - low) or 1.0
    return low - margin, high + margin


def _point(axes: Axes, point: Point, cost: float, mean: float, unit: float) -> None:
    style, half = point.style, 100 * point.accuracy.half
    runs = [(flops / unit, 100 * value) for flops, value in point.runs]
    axes.plot(
        *zip(*runs, strict=True),
        style.marker,
        color=style.colour,
        markersize=3,
        alpha=0.45,
        markeredgewidth=0,
    )
    if half == half:  # one seed has no interval
        axes.errorbar(cost, mean, half, color=style.colour, linewidth=0.9, capsize=2.5)
    axes.plot(
        [cost],
        [mean],
        style.marker,
        color=style.colour,
        markersize=7,
        markeredgecolor=INK,
        markeredgewidth=0.6,
    )


def flops_unit(costs: Sequence[float]) -> tuple[float, str]:
    """A power of 1000 below the largest cost, and its name."""
    power = 0
    while max(costs) >= 1000 ** (power + 1):
        power += 1
    return 1000.0**power, f"10^{3 * power}" if power else "FLOPs"
