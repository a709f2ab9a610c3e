"""Time the steps of lightly-train's own distillation; prints a line of JSON.

runs/peers/env/bin/python benchmarks/peers/run_lightly.py --steps 20

Its teacher always runs to the last layer.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import peer


def main() -> None:
    arguments = _arguments()
    peer.use_teacher(arguments.data / "teacher.pth")
    stopwatch = peer.time_steps(peer.DEPTH)
    with tempfile.TemporaryDirectory() as folder:
        peer.lightly_train.pretrain(
            out=Path(folder) / "run",
            data=arguments.data / "train",
            model=peer.student(),
            method="distillationv2",
            method_args={"n_teacher_blocks": 1},
            optim_args={"lr": peer.SPEC["optimizer"]["lr"]},
            transform_args={"image_size": (peer.IMAGE_SIZE, peer.IMAGE_SIZE)},
            batch_size=peer.SPEC["train"]["batch_size"],
            num_workers=0,
            precision="32-true",
            accelerator="cpu",
            trainer_args={"max_steps": arguments.steps},
        )
    stopwatch.tell("lightly-train", peer.lightly_train.__version__)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/peers/data"), help="what prepare.py wrote")
    parser.add_argument("--steps", type=int, default=20, help="at most one epoch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
