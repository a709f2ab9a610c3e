"""Run a spec as it is and with something else, several seeds each, and compare.

    python benchmarks/compare.py quickstart --seeds 5
    python benchmarks/compare.py quickstart --against objective.target_norm=raw

Without --against, the other one is the baseline with the fixed last layer.

Writes each run under --output and ``comparison.json`` beside them; prints a Markdown table of means with
95 % confidence intervals (Student's t over seeds) and the paired differences.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev

import torch
from scipy.stats import t as student_t

from leapcore import RunReport, load_spec, run

FIGURES = {
    "kNN accuracy, %": lambda r: 100 * r.accuracy["knn"],
    "linear probe accuracy, %": lambda r: 100 * r.accuracy["linear"],
    "FLOPs saved, %": lambda r: 100 * r.flops["saved"],
    "training time, s": lambda r: r.time["training_seconds"],
}


def main() -> None:
    arguments = _arguments()
    kinds = ("written", "other")
    # Seed by seed and turn about, so that a machine that slows down does so for both.
    todo = [(kind, seed) for seed in range(arguments.seeds) for kind in kinds]
    reports = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        for first in range(0, len(todo), arguments.jobs):
            together = todo[first : first + arguments.jobs]
            running = [(kind, workers.submit(_run, arguments, kind, seed)) for kind, seed in together]
            reports += [(kind, future.result()) for kind, future in running]
    rows = {
        name: {kind: [figure(r) for k, r in reports if k == kind] for kind in kinds}
        for name, figure in FIGURES.items()
    }
    (arguments.output / "comparison.json").write_text(json.dumps(rows, indent=1))
    print(table(rows, ", ".join(arguments.against)))


def table(rows: dict[str, dict[str, list[float]]], other: str) -> str:
    """Means, 95 % intervals and paired differences as Markdown."""
    lines = [f"| | as written | {other} | difference |", "| --- | --- | --- | --- |"]
    for name, by_kind in rows.items():
        pairs = list(zip(by_kind["written"], by_kind["other"], strict=True))
        cells = [*by_kind.values(), [a - b for a, b in pairs]]
        lines.append(f"| {name} | " + " | ".join(with_interval(values) for values in cells) + " |")
    return "\n".join(lines)


def with_interval(values: list[float]) -> str:
    """Mean ± half the width of the 95 % confidence interval."""
    if len(values) < 2:
        return f"{mean(values):.2f}"
    half = student_t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.2f} ± {half:.2f}"


def _run(arguments: argparse.Namespace, kind: str, seed: int) -> RunReport:
    if arguments.jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // arguments.jobs))
    # Both accuracies are in the table; the teacher's would only take time.
    wanted = ["evaluate.knn=end", "evaluate.linear=end", "evaluate.teacher=false"]
    overrides = [*arguments.set, *wanted, f"train.seed={seed}"]
    spec = load_spec(arguments.spec, overrides + (arguments.against if kind == "other" else []))
    if any(teacher.curriculum for teacher in spec.teachers.values()):
        raise SystemExit("leave out the curricula of single teachers: their baseline is not clear")
    report = run(spec, output=arguments.output / f"{kind}-{seed}", overwrite=True)
    print(kind, seed, report.accuracy, f"saved {report.flops['saved']:.3f}", flush=True)
    return report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--jobs",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: each run beside its baseline, on half the threads",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/compare"))
    parser.add_argument("--against", action="append", metavar="KEY=VALUE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    arguments.against = arguments.against or ["curriculum.scheduler=fixed"]
    return arguments


if __name__ == "__main__":
    main()
