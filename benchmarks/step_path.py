"""How far a reader travels: the files and functions of leapcore that one training step goes through.

    python benchmarks/step_path.py [SPEC] [--step 12]

Python's profile hook notes every call into leapcore and its backbone plugins. A step lasts from the moment
when its images are loaded to the end of the optimizer's step. A file switch is a call into another file than
the call before it. The way from ``run()`` to the first step is counted in files alone.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import leapcore
from leapcore import load_spec, run

ROOTS = (str(Path(leapcore.__file__).parent), str(Path(leapcore.__file__).parents[1] / "plugins"))
END = ("deepspeed.py", "step")  # the file and function whose return ends a step


class Calls:
    """The calls of each step: (file, function), in order; the first also holds those of building the run."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[str, str]]] = [[]]

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(ROOTS):
            return
        if event == "call":
            self.steps[-1].append((code.co_filename, code.co_qualname))
        elif (Path(code.co_filename).name, code.co_name) == END:
            self.steps.append([])


def switches(calls: list[tuple[str, str]]) -> int:
    """How often the next call is into another file."""
    return sum(before[0] != after[0] for before, after in itertools.pairwise(calls))


def after_loading(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What follows the last image's view, since how often that is drawn is a matter of the batch's size."""
    loading = ("views.py", "images.py")
    views = [
        number
        for number, (file, function) in enumerate(calls)
        if Path(file).name in loading and "share_faults" not in function
    ]
    return calls[views[-1] + 1 :]


def main() -> None:
    """Train a few steps, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", nargs="?", default="quickstart")
    parser.add_argument("--step", type=int, default=12, help="which step to look at")
    parser.add_argument("--list", action="store_true", help="print its calls, in order")
    arguments = parser.parse_args()
    spec = load_spec(
        arguments.spec, [f"train.duration={arguments.step + 2}st", "evaluate={knn: never, linear: never}"]
    )
    calls = Calls()
    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(calls)
        try:
            run(spec, output=Path(folder) / "run", progress=False)
        finally:
            sys.setprofile(None)
    step = after_loading(calls.steps[arguments.step])
    if arguments.list:
        for file, function in step:
            print(f"{Path(file).relative_to(Path(ROOTS[0]).parent)}  {function}")
    per_file = Counter(file for file, _ in step)
    print(f"a step: {len(per_file)} files, {len(set(step))} functions, {switches(step)} file switches")
    print(f"from run() to the end of the first step: {len({file for file, _ in calls.steps[0]})} files")


if __name__ == "__main__":
    main()
