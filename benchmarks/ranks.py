"""Every ZeRO stage on one process and on several: the same losses? And what does a step cost?

    python benchmarks/ranks.py --output runs/ranks --pairs 5

Prints Markdown: of each stage and number of processes the last loss, the largest difference of any step's
loss from that of one process at stage 0, and the training time. Then the time per step of several
processes over that of one, as the median of pairs that ran one right after the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

SETTINGS = (
    "train.log_every=1",
    "evaluate={knn: never, linear: never}",
    "checkpoint.every=never",
    "curriculum.max_time_per_layer=7st",
)


def main() -> None:
    arguments = _arguments()
    reference = _run(arguments, 0, 1)
    print("| ZeRO stage | processes | last loss | largest difference | training, s |")
    print("| --- | --- | --- | --- | --- |")
    for stage in range(4):
        for ranks in (1, arguments.processes):
            found = _run(arguments, stage, ranks)
            far = max(abs(a / b - 1) for a, b in zip(found["losses"], reference["losses"], strict=True))
            print(f"| {stage} | {ranks} | {found['losses'][-1]:.6f} | {far:.1e} | {found['seconds']:.1f} |")
    pairs = [(_run(arguments, 0, 1), _run(arguments, 0, arguments.processes)) for _ in range(arguments.pairs)]
    ratios = sorted(several["seconds"] / one["seconds"] for one, several in pairs)
    print(
        f"\nA step of {arguments.processes} processes takes {median(ratios):.2f} of the time of one "
        f"(median of {len(ratios)} pairs, {ratios[0]:.2f} to {ratios[-1]:.2f})."
    )


def _run(arguments: argparse.Namespace, stage: int, ranks: int) -> dict[str, object]:
    """The losses of all steps, and the seconds that the steps after the first ten took."""
    folder = arguments.output / f"stage{stage}-ranks{ranks}"
    command = [
        sys.executable,
        "-m",
        "leapcore",
        "run",
        arguments.spec,
        "--overwrite",
        "--output",
        str(folder),
    ]
    overrides = [*SETTINGS, f"engine.zero_stage={stage}", f"train.duration={arguments.steps}st"]
    sets = [part for override in overrides for part in ("--set", override)]
    with (arguments.output / "log.txt").open("a") as log:
        subprocess.run(
            [*command, *sets, "--processes", str(ranks)], check=True, stdout=log, stderr=subprocess.STDOUT
        )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    return {"losses": [s["loss"] for s in steps], "seconds": steps[-1]["seconds"] - steps[9]["seconds"]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spec", nargs="?", default="quickstart")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/ranks"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    main()
