"""When does keeping a teacher's features pay? The same run with a cache and without, for several teachers.

    python benchmarks/cache.py --output runs/cache
    python benchmarks/cache.py --output runs/cache --quick

The quickstart's student on scikit-learn's digits, ten epochs of one view each (``data.augment.views: 1``),
from a ViT of 12 blocks with random weights: what is measured does not depend on them. The last row has a
target that moves at every epoch, so that nothing is ever found. A run with a cache starts with an empty one.

Prints a Markdown table: the share of images whose features were found, FLOPs and training time of both, and
the bytes on disk. Times are medians over ``--repeats``; the two runs of a pair follow each other.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import mean, median
from typing import Any

from leapcore import load_spec, run

FIXED = "curriculum={scheduler: fixed}"
SETTINGS = (
    "teacher.model=vit_tiny_patch16_224",
    "teacher.weights=none",
    "objective.mixup=false",
    "data.augment.views=1",
    "evaluate={knn: never, linear: never, teacher: false}",
    "checkpoint.every=never",
)


def main() -> None:
    arguments = _arguments()
    _run(arguments, arguments.widths[0], FIXED, "warm-up", cached=True)
    print("| teacher | found | TFLOPs | with cache | ratio | training, s | with cache | ratio | disk, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for width in arguments.widths:
        print(_row(arguments, width, FIXED, f"{width} wide"), flush=True)
    middle, times = arguments.widths[-2], {f"{epoch}ep": epoch + 1 for epoch in range(arguments.epochs)}
    moving = f"curriculum={{scheduler: steps, at: {json.dumps(times)}}}"
    print(_row(arguments, middle, moving, f"{middle} wide, target moves every epoch"), flush=True)


def _row(arguments: argparse.Namespace, width: int, curriculum: str, label: str) -> str:
    pairs = [
        [_run(arguments, width, curriculum, f"{width}-{cached}", cached=cached) for cached in (False, True)]
        for _ in range(arguments.repeats)
    ]
    plain, cached = pairs[0]
    before, after = (median(pair[kind]["seconds"] for pair in pairs) for kind in (0, 1))
    cells = [
        label,
        f"{100 * cached['found']:.0f} %",
        f"{plain['flops'] / 1e12:.2f}",
        f"{cached['flops'] / 1e12:.2f}",
        f"{cached['flops'] / plain['flops']:.2f}",
        f"{before:.1f}",
        f"{after:.1f}",
        f"{after / before:.2f}",
        f"{cached['bytes'] / 1e6:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _run(
    arguments: argparse.Namespace, width: int, curriculum: str, name: str, *, cached: bool
) -> dict[str, Any]:
    """FLOPs, seconds of training, share of images found, and bytes that the cache holds in the end."""
    folder, cache = arguments.output / name, arguments.output / "features"
    shutil.rmtree(cache, ignore_errors=True)
    teacher = {"patch_size": 8, "embed_dim": width, "depth": 12, "num_heads": width // 16}
    overrides = [*SETTINGS, curriculum, f"teacher.options={teacher}", f"train.duration={arguments.epochs}ep"]
    if cached:
        overrides.append(f"cache.folder={cache}")
    report = run(load_spec("quickstart", overrides), output=folder, overwrite=True)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {
        "flops": report.flops["spent"],
        "seconds": report.time["training_seconds"],
        "found": mean(line.get("cache_hits", 0.0) for line in lines if "loss" in line),
        "bytes": sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 96, 192, 384])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 epochs, the two widths in the middle")
    parser.add_argument("--output", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.widths = 3, [96, 192]
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    main()
