"""Time the steps of LEAP's reference code at one target layer; prints a line of JSON.

    git clone https://github.com/KevinZ0217/LEAP runs/peers/LEAP
    runs/peers/env/bin/python benchmarks/peers/run_reference.py runs/peers/LEAP --target 6 --steps 20

Its own main program runs, with its curriculum: the target is where a saved state says, and stays there,
since no alignment reaches 2. What is replaced are the two models: it knows larger ones only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import peer


def main() -> None:
    arguments = _arguments()
    script = _loaded(arguments.checkout / "train_distill.py")
    script._build_vit_student = lambda *_, **__: peer.student()
    limit = {"max_steps": arguments.steps}
    peer.lightly_train.pretrain = partial(peer.lightly_train.pretrain, trainer_args=limit)
    peer.use_teacher(arguments.data / "teacher.pth")
    stopwatch = peer.time_steps(arguments.target)
    with tempfile.TemporaryDirectory() as folder:
        state = {"current_target_block": arguments.target, "ema_cka": 0.0, "epochs_on_current_block": 0}
        (Path(folder) / "curriculum_state.json").write_text(json.dumps(state))
        sys.argv[1:] = _command_line(arguments.data / "train", folder)
        script.main()
    stopwatch.tell("LEAP reference", f"on lightly-train {peer.lightly_train.__version__}")


def _loaded(path: Path) -> Any:
    found = importlib.util.spec_from_file_location("leap_reference", path)
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    return script


def _command_line(images: Path, output: str) -> list[str]:
    spec = peer.SPEC
    return [
        *("--data", str(images), "--out", output, "--overwrite"),
        *("--mode", "lowres", "--image-size", str(peer.IMAGE_SIZE), "--last-n", "1"),
        *("--epochs", "1", "--batch-size", str(spec["train"]["batch_size"]), "--num-workers", "0"),
        *("--lr", str(spec["optimizer"]["lr"]), "--precision", "32-true", "--matmul-precision", "highest"),
        *("--cls-loss", "--cls-loss-weight", str(spec["objective"]["cls_weight"])),
        *("--curriculum", "--cka-threshold", "2", "--max-epochs-per-block", "1000"),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkout", type=Path, help="where the reference code was cloned to")
    parser.add_argument("--target", type=int, default=peer.DEPTH, help="teacher layer, counted from 1")
    parser.add_argument("--data", type=Path, default=Path("runs/peers/data"), help="what prepare.py wrote")
    parser.add_argument("--steps", type=int, default=20, help="at most one epoch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
