"""What follows from ``gpu.py``'s measurements: savings of whole schedules, and Markdown."""

from __future__ import annotations

from typing import Any

import numpy as np
from paper_flops import EPOCHS, LIMITS, STARTS, walk

PAPERS_DEPTH = 40  # blocks of the teacher that STARTS and LIMITS were chosen for
PAPERS_LIMIT = 5  # epochs per block
ENOUGH = 0.1
GIB = 2**30


def projections(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Savings of the schedules in ``paper_flops.py``, from steps measured at some blocks.

    Between two measured blocks the cost of a step is interpolated. Both savings are against the last
    layer throughout, nothing scored. Teachers of another depth walk through the same shares of it.
    The one calibration of a run is left out.

    Args:
        batch: A batch size's results; its blocks reach from the first to the last.
    """
    return [_projection(batch, start, limit) for start in STARTS for limit in LIMITS]


def _projection(batch: dict[str, Any], start: int, limit: int) -> dict[str, Any]:
    targets = np.array(list(walk(PAPERS_DEPTH, start, limit)))
    places = 1 + targets * (batch["depth"] - 1) / (PAPERS_DEPTH - 1)
    known, baseline = [row["block"] for row in batch["blocks"]], batch["baseline"]

    def saved(figure: str, full: float) -> float:
        costs = np.interp(places, known, [row[figure] for row in batch["blocks"]])
        return float(1 - costs.sum() / (EPOCHS * full))

    time, flops = saved("seconds", baseline["seconds"]), saved("flops", baseline["baseline_flops"])
    return {
        "start": start,
        "epochs_per_block": limit,
        "time_saved": time,
        "flops_saved": flops,
        "ratio": time / flops,
    }


def report(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    sections = [_machine(results)]
    for batch in results["batches"]:
        sections += [_steps_table(batch, results["product"]["flops_per_second"]), _savings_table(batch)]
    if results["left_out"]:
        sections.append("Left out:\n" + "\n".join(f"- {note}" for note in results["left_out"]))
    return "\n\n".join(filter(None, sections))


def _machine(results: dict[str, Any]) -> str:
    machine, product = results["machine"], results["product"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    settings = " ".join(results["settings"]["set"]) or "as in the recipe"
    return (
        f"{machine['device']}; {versions}\n\n"
        f"Teacher {results['settings']['teacher']}, settings: {settings}. A product of two "
        f"{product['side']} x {product['side']} matrices in {product['precision']} runs at "
        f"{product['flops_per_second'] / 1e12:.3g} TFLOP/s."
    )


def _steps_table(batch: dict[str, Any], product: float) -> str:
    rows = [*batch["blocks"], *filter(None, [batch["baseline"]])]
    if not rows:
        return ""
    shares = [f"{name}, %" for name in rows[0]["parts"]]
    header = ["target block", "step, ms", "images/s", *shares, "peak, GiB", "resident, GiB", "TFLOP/s"]
    title = f"Batch of {batch['batch_size']}, {batch['depth']} blocks"
    title += f", precision of float32 products: {batch['float32_products']}:"
    lines = [title, "", *_header(*header, "of product, %")]
    return "\n".join(lines + [_line(_cells(row, batch["batch_size"], product)) for row in rows])


def _cells(row: dict[str, Any], images: int, product: float) -> list[str]:
    rate, whole = row["flops"] / row["seconds"], sum(row["parts"].values())
    return [
        f"{row['block']}" + ("" if row["scored"] else ", not scored"),
        f"{1e3 * row['seconds']:.1f}",
        f"{images / row['seconds']:.0f}",
        *(f"{100 * part / whole:.1f}" for part in row["parts"].values()),
        *("-" if row[key] is None else f"{row[key] / GIB:.2f}" for key in ("peak_bytes", "resident_bytes")),
        f"{rate / 1e12:.3g}",
        f"{100 * rate / product:.1f}",
    ]


def _savings_table(batch: dict[str, Any]) -> str:
    """The schedules with the paper's time limit; of all together the lowest ratio."""
    found = batch["projections"]
    if not found:
        return ""
    lines = _header("start at block", "time saved, %", "FLOPs saved, %", "time over FLOPs")
    for row in found:
        if row["epochs_per_block"] == PAPERS_LIMIT:
            cells = [f"{row['start']}", f"{100 * row['time_saved']:.1f}", f"{100 * row['flops_saved']:.1f}"]
            lines.append(_line([*cells, f"{row['ratio']:.3f}"]))
    title = f"{EPOCHS} epochs, {PAPERS_LIMIT} per block, blocks of {PAPERS_DEPTH}, batch of "
    return "\n".join([f"{title}{batch['batch_size']}:", "", *lines, "", _lowest_ratio(found)])


def _lowest_ratio(found: list[dict[str, Any]]) -> str:
    """Of schedules that save enough for their ratio to mean something."""
    rows = [row for row in found if row["flops_saved"] >= ENOUGH]
    if not rows:
        return ""
    lowest = min(rows, key=lambda row: row["ratio"])
    return (
        f"Lowest of the {len(rows)} schedules that save {100 * ENOUGH:.0f} % or more of the FLOPs: "
        f"{lowest['ratio']:.3f}, from block {lowest['start']}, {lowest['epochs_per_block']} epochs per block."
    )


def _header(*names: str) -> list[str]:
    return [_line(names), "|" + " --- |" * len(names)]


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
