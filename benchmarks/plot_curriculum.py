"""Draw a run's walk through the teacher's layers, from its metrics.jsonl.

python benchmarks/plot_curriculum.py runs/quickstart docs/quickstart.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

INK, BLUE, ORANGE = "#333333", "#1f6fb2", "#d9730d"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((arguments.run / "summary.json").read_text())
    plt.switch_backend("agg")  # no screen needed
    plt.rcParams["svg.hashsalt"] = "leapcore"  # the same drawing for the same run
    figure = draw(lines, summary)
    figure.savefig(arguments.picture, bbox_inches="tight")


def draw(lines: list[dict], summary: dict) -> plt.Figure:
    """Two panels over the steps: the target layer, and alignment with kNN accuracy."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=[3, 2])
    _draw_targets(top, lines, summary)
    _draw_alignment(bottom, lines)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    figure.align_ylabels()
    return figure


def _draw_targets(axes: plt.Axes, lines: list[dict], summary: dict) -> None:
    layers, end = summary["teachers"]["teacher"]["layers"], summary["steps"]
    changes = [line for line in lines if line.get("event") == "target_changed"]
    steps = [change["step"] for change in changes] + [end]
    targets = [change["target"] for change in changes]
    axes.stairs(targets, steps, fill=True, color=BLUE, alpha=0.25, baseline=0)
    axes.stairs(targets, steps, color=BLUE, linewidth=1.6, baseline=None)
    axes.stairs([layers], [0, end], baseline=None, color=INK, linestyle=":", linewidth=1)
    saved = f"never computed:\n{summary['flops']['saved']:.1%} of the run's FLOPs"
    axes.text(0.03 * end, 0.72 * layers, saved, color=INK, fontsize=10)
    axes.set(ylabel="teacher layers computed", ylim=(0, layers + 0.5), xlim=(0, end))
    axes.set_yticks(range(0, layers + 1, 3))


def _draw_alignment(axes: plt.Axes, lines: list[dict]) -> None:
    steps = [line for line in lines if "alignment" in line and "event" not in line]
    knn = [line for line in lines if "knn" in line]
    axes.plot(
        [s["step"] for s in steps],
        [s["alignment"] for s in steps],
        color=BLUE,
        label="alignment (linear CKA)",
    )
    axes.plot(
        [k["step"] for k in knn],
        [k["knn"] for k in knn],
        "o-",
        color=ORANGE,
        label="kNN accuracy of the student",
    )
    axes.set(xlabel="training step", ylim=(0.4, 1.02))
    axes.legend(loc="lower right", frameon=False)


if __name__ == "__main__":
    main()
