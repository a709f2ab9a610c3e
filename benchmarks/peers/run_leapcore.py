"""Time leapcore's steps; prints a line of JSON.

python benchmarks/peers/run_leapcore.py --steps 20 --set curriculum.scheduler=fixed

It is an ordinary run with a stopwatch among its listeners.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from stopwatch import Stopwatch

import leapcore


class Timing:
    """Takes a lap whenever the figures of a step are told."""

    def __init__(self) -> None:
        self.stopwatch = Stopwatch()

    @leapcore.hookimpl
    def leapcore_metrics(self, metrics: dict[str, Any]) -> None:
        self.stopwatch.lap(metrics["target_layer"])


def main() -> None:
    arguments = _arguments()
    train, val, teacher = (arguments.data / name for name in ("train", "val", "teacher.pth"))
    settings = [f"data.train={train}", f"data.val={val}", f"teacher.weights={teacher}"]
    settings += ["train.log_every=1", f"train.duration={arguments.steps}st", *arguments.set]
    spec = leapcore.load_spec(Path(__file__).with_name("spec.yaml"), settings)
    timing = Timing()
    with tempfile.TemporaryDirectory() as folder:
        leapcore.run(spec, output=Path(folder) / "run", listeners=[timing])
    timing.stopwatch.tell("leapcore", leapcore.__version__)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/peers/data"), help="what prepare.py wrote")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of leapcore run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
