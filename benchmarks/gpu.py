"""A training step on one GPU: its time, its parts, its memory, and what a curriculum saves of each.

    python benchmarks/gpu.py                                     # the paper's models, batches of 128 and 256
    python benchmarks/gpu.py --set engine.gradient_checkpointing=true --output runs/recomputed.json
    python benchmarks/gpu.py --small                             # 192 and 96 wide, 56 px: also for a CPU
    python benchmarks/gpu.py --tiny                              # to see whether it works

Set OMP_NUM_THREADS=1 on a CPU whose cores others use too.

Needs leapcore installed (``pip install -c constraints.txt .``, after the torch that fits the GPU) and a GPU
that nobody else uses; no images, no weights, no network. Meant to end within nine minutes on an H100. A GPU
with little free memory gets a smaller teacher. To compare settings, call it once for each.

The steps are those of ``leapcore run`` with the recipe ``leap-vits14-imagenet1k``: mixup, both models, CKA,
DeepSpeed, LARS. Different are the images (one random batch, on the device from the start), the weights
(random) and the curriculum (the target stays until it is measured). Each block is warmed up, then timed in
groups of steps with a synchronisation at both ends of a group; the figure is the median over the groups.

The parts come from the same steps, by events in the GPU's stream: ``teacher`` its forward pass; ``student``
forward and backward with projector and loss; ``alignment`` the score; ``optimizer`` clipping and update;
``rest`` all else. Where the GPU waits for the host within a part, that counts as the part's. FLOPs are the
ledger's, which counts nothing twice that is recomputed.

Prints Markdown; writes JSON to --output after every block, so that a stop loses nothing. When the time of
--budget-s runs short there are fewer groups, then fewer blocks; what was left out is said at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gpu_report import projections, report
from gpu_step import SMALL, TINY, Bench, Scale, bench_spec, product_rate

from leapcore import LeapcoreError, __version__
from leapcore.train.loop import tf32

TEACHER, SMALLER_TEACHER = "vit_giant_patch14_dinov2", "vit_large_patch14_dinov2"
PLAIN_TEACHER = "vit_tiny_patch16_224"
ROOM = 32 * 2**30  # bytes of free memory that the first one gets; an estimate, with a batch of 128 in mind


def main(argv: list[str] | None = None) -> None:
    arguments = parsed(argv)
    campaign, problem = Campaign(arguments), None
    try:
        for place, batch_size in enumerate(arguments.batch):
            campaign.measure(batch_size, campaign.left / (len(arguments.batch) - place))
    except (LeapcoreError, KeyboardInterrupt) as error:
        problem = f"{error}" or "stopped"
        campaign.leave_out(f"all that follows: {problem}")
    print(report(campaign.results))
    if problem:
        sys.exit(problem)


class Campaign:
    """All measurements of a call.

    Args:
        arguments: Of the command line.

    Attributes:
        results: What the JSON holds.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._end: float = time.perf_counter() + arguments.budget_s
        self._scale = TINY if arguments.tiny else SMALL if arguments.small else Scale()
        self._arguments = arguments
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.results: dict[str, Any] = {
            "machine": machine(),
            "settings": {"teacher": arguments.teacher, "set": arguments.set, "scale": self._scale._asdict()},
            "product": {
                "side": self._scale.matrix,
                "precision": self._scale.precision,
                "flops_per_second": product_rate(device, self._scale),
            },
            "batches": [],
            "left_out": [],
        }
        self._write()

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self._end - time.perf_counter()

    def leave_out(self, what: str) -> None:
        """Note that something was not measured."""
        self.results["left_out"].append(what)
        self._write()

    def measure(self, batch_size: int, seconds: float) -> None:
        """All blocks with one batch size, in about so much time; the first and last in any case."""
        end = time.perf_counter() + seconds
        batch: dict[str, Any] = {"batch_size": batch_size, "blocks": [], "baseline": None, "projections": []}
        self.results["batches"].append(batch)
        try:
            self._fill(batch, lambda: end - time.perf_counter())
        except torch.OutOfMemoryError as error:
            self.leave_out(f"batch of {batch_size}: {str(error).splitlines()[0]}")
        _release()

    def _fill(self, batch: dict[str, Any], left: Callable[[], float]) -> None:
        arguments, scale = self._arguments, self._scale
        spec = bench_spec(arguments.teacher, scale, batch["batch_size"], arguments.set)
        bench = Bench(spec, scale)
        batch |= {"depth": bench.depth, "float32_products": float32_products(bench)}
        blocks = chosen_blocks(bench.depth)
        for place, block in enumerate(blocks):
            allowed = left() / (len(blocks) - place + 1)  # the baseline comes last
            if 1 < block < bench.depth and allowed < _least(batch["blocks"], scale):
                self.leave_out(f"batch of {batch['batch_size']}: block {block}, for want of time")
                continue
            self._note(batch, bench.measure(block, allowed=allowed))
        batch["baseline"] = bench.measure(bench.depth, scored=False, allowed=left())
        batch["projections"] = projections(batch)
        self._write()

    def _note(self, batch: dict[str, Any], row: dict[str, Any]) -> None:
        batch["blocks"].append(row)
        self._write()
        print(
            f"batch of {batch['batch_size']}, block {row['block']} of {batch['depth']}: "
            f"{1e3 * row['seconds']:.1f} ms, {row['steps']} steps, {self.left:.0f} s left",
            file=sys.stderr,
        )
        wanted = self._scale.groups * self._scale.steps
        if row["steps"] < wanted:
            where = f"batch of {batch['batch_size']}, block {row['block']}"
            self.leave_out(f"{where}: {wanted - row['steps']} of {wanted} steps, for want of time")

    def _write(self) -> None:
        output: Path = self._arguments.output
        output.parent.mkdir(parents=True, exist_ok=True)
        whole = output.with_name(f"{output.name}.new")  # a kill while writing leaves the last one
        whole.write_text(json.dumps(self.results, indent=1) + "\n")
        whole.replace(output)


def chosen_blocks(depth: int) -> list[int]:
    """The first, every eighth part of the depth, and the last; 1-based."""
    stride = max(1, depth // 8)
    return sorted({1, depth, *range(stride, depth, stride)})


def _least(rows: list[dict[str, Any]], scale: Scale) -> float:
    """Seconds that one more block takes at least, by the last one; 0 before the first."""
    return (1 + scale.warmup + scale.steps) * rows[-1]["seconds"] if rows else 0.0


def float32_products(bench: Bench) -> str:
    """How a step multiplies what is left in float32."""
    with tf32(bench.parts.spec.train.precision != "float32"):
        return torch.get_float32_matmul_precision()


def _release() -> None:
    """Give a run's memory back, and compiled code: the next batch size is to be compiled for itself."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def machine() -> dict[str, Any]:
    """What was measured on."""
    gpu = torch.cuda.is_available()
    others = {name: version(name) for name in ("torch", "timm", "deepspeed")}
    return {
        "device": torch.cuda.get_device_name() if gpu else f"CPU ({platform.machine()})",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if gpu else None,
        "versions": {**others, "cuda": torch.version.cuda, "leapcore": __version__},
    }


def _fitting_teacher() -> str:
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < ROOM:
        return SMALLER_TEACHER
    return TEACHER


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--teacher", metavar="MODEL", help=f"a ViT of timm's; by free memory {TEACHER} or smaller"
    )
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="batch sizes; 128 256 if not given")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the spec")
    parser.add_argument("--budget-s", type=float, default=500, metavar="SECONDS")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu.json"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="models for a CPU, batch of 64")
    size.add_argument("--tiny", action="store_true", help="still smaller models, batch of 4, two steps")
    arguments = parser.parse_args(argv)
    if not (arguments.tiny or arguments.small or torch.cuda.is_available()):
        parser.error("torch finds no GPU; --small and --tiny need none")
    arguments.teacher = arguments.teacher or (PLAIN_TEACHER if arguments.small else _fitting_teacher())
    arguments.batch = arguments.batch or ([4] if arguments.tiny else [64] if arguments.small else [128, 256])
    return arguments


if __name__ == "__main__":
    main()
