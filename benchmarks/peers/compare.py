"""Time a distillation step of leapcore against lightly-train and LEAP's reference code, at equal sizes.

    python benchmarks/fashion_mnist/prepare.py data/fashion-mnist
    python benchmarks/peers/prepare.py
    python -m venv runs/peers/env && runs/peers/env/bin/pip install -r benchmarks/peers/requirements.txt
    git clone https://github.com/KevinZ0217/LEAP runs/peers/LEAP
    taskset -c 1 python benchmarks/peers/compare.py

One thread for everything; taskset gives it a core. A round is a chain of runs, each in a fresh process, in
which those that are compared are neighbours; every other round goes backwards. Runs are kept in
``runs.jsonl`` as they end, from which ``table.py`` prints the Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from table import WARM_UP, table

HERE = Path(__file__).parent
LAYERS = 12
STEPS_PER_LAYER = 4  # of the curriculum that visits all layers


class Run(NamedTuple):
    """One program of the chain.

    Attributes:
        goal: Its target, in words.
        script: Its file.
        target: The reference code's target layer, counted from 1.
        curriculum: leapcore's.
        layers: How many layers are the target in turn.
    """

    goal: str
    script: str = "run_leapcore.py"
    target: int = LAYERS
    curriculum: str = ""
    layers: int = 1


def _held(layer: int) -> Run:
    """The curriculum measures the alignment in every step, and never moves."""
    curriculum = f"{{scheduler: cka, start: {layer}, threshold: 2, max_time_per_layer: null}}"
    return Run(f"layer {layer}", curriculum=curriculum)


def _reference(layer: int) -> Run:
    return Run(f"layer {layer}", "run_reference.py", target=layer)


FIXED = Run("last layer, no CKA", curriculum="{scheduler: fixed}")
MOVING = Run(
    "every layer equally long",
    curriculum=f"{{scheduler: cka, start: first, threshold: 2, max_time_per_layer: {STEPS_PER_LAYER}st}}",
    layers=LAYERS,
)
LIGHTLY = Run("last layer, no CKA", "run_lightly.py")
CHAIN = (
    *(FIXED, LIGHTLY, _held(6), _reference(6)),
    *(_reference(1), _held(1), LIGHTLY, MOVING),
    *(_held(LAYERS), _reference(LAYERS)),
)


def main() -> None:
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = arguments.output / "runs.jsonl"
    runs.unlink(missing_ok=True)
    for number in range(arguments.rounds):
        for run in CHAIN if number % 2 == 0 else reversed(CHAIN):
            told = {"round": number, "goal": run.goal, **_told(_command(arguments, run))}
            with runs.open("a") as file:
                file.write(json.dumps(told) + "\n")
            print(number, told["name"], run.goal, f"{sum(told['cpu_seconds']):.1f} CPU s", file=sys.stderr)
    print(table(runs.read_text().splitlines()))


def _command(arguments: argparse.Namespace, run: Run) -> list[str]:
    steps = arguments.steps if run.layers == 1 else run.layers * STEPS_PER_LAYER
    command = [str(HERE / run.script), f"--data={arguments.data}", f"--steps={steps}"]
    if run.script == "run_leapcore.py":
        settings = [f"curriculum={run.curriculum}", *arguments.set]
        return [sys.executable, *command, *(f"--set={setting}" for setting in settings)]
    if run.script == "run_reference.py":
        command += [f"--target={run.target}", str(arguments.reference)]
    return [str(arguments.peer_python), *command]


def _told(command: list[str]) -> dict[str, Any]:
    """What a program tells in its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=WARM_UP + 16, help="of each run, at most one epoch")
    parser.add_argument("--data", type=Path, default=Path("runs/peers/data"), help="what prepare.py wrote")
    parser.add_argument("--peer-python", type=Path, default=Path("runs/peers/env/bin/python"))
    parser.add_argument("--reference", type=Path, default=Path("runs/peers/LEAP"), help="the checkout")
    parser.add_argument("--output", type=Path, default=Path("runs/peers"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for leapcore's spec")
    return parser.parse_args()


if __name__ == "__main__":
    main()
