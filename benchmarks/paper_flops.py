"""Re-derive the saving that LEAP's paper reports, 25.1 % of the training FLOPs (arXiv 2606.19483).

    python benchmarks/paper_flops.py                                    # the tables in docs/paper.md
    python benchmarks/paper_flops.py --start 20 --epochs-per-block 5    # one saving, in %

Needs no images and no weights: DINOv2 ViT-g/14 and ViT-S/14 are counted at 224 px on the meta device. The
scheduler that a run uses walks through 100 epochs and never sees a score: only its time limit moves it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch

from leapcore import Duration, FlopsLedger, LayerFeatureProvider, Projector, count_macs
from leapcore.core.alignment import ALIGNMENTS
from leapcore.core.alignment_schedulers import CkaScheduler
from leapcore.core.flops import count_layer_macs
from leapcore.plugins.loader import installed_plugins

REPORTED = 25.1  # % of the training FLOPs
EPOCHS = 100
BATCH = 256
PIXELS = 224
STARTS = (1, 8, 14, 20, 25)
LIMITS = (1, 2, 3, 4, 5, 6, 10)


class Setting(NamedTuple):
    """What is counted. The paper does not say how it counted."""

    teacher: str = "vit_giant_patch14_dinov2"
    student: str = "vit_small_patch14_dinov2"
    projector: bool = True
    alignment: bool = False  # the cost of measuring CKA


AS_TABLE = Setting()
VARIANTS = {
    "as the table: ViT-S/14 and projector": AS_TABLE,
    "without the projector": Setting(projector=False),
    "teacher with four registers": Setting(teacher="vit_giant_patch14_reg4_dinov2"),
    "student counted as ViT-S/16": Setting(student="vit_small_patch16_224"),
    "student counted as ViT-S/16, without the projector": Setting(
        student="vit_small_patch16_224", projector=False
    ),
    "as the table, measuring CKA counted too (as a run of leapcore does)": Setting(alignment=True),
}


def main() -> None:
    arguments = _arguments()
    if arguments.start is None:
        print(report())
    else:
        print(f"{saving(arguments.start, arguments.epochs_per_block):.2f}")


def report() -> str:
    """All tables of docs/paper.md."""
    return "\n\n".join([saving_table(), nearest_table(), mean_block_line(), variants_table()])


def saving(start: int, epochs_per_block: int, setting: Setting = AS_TABLE) -> float:
    """Saving in % of a walk that begins at block ``start`` (1-based) and that only the time limit moves."""
    ledger, teacher = empty_ledger(setting), prefix_macs(setting.teacher)
    # One batch stands for an epoch: all batches of an epoch cost the same, and only shares are reported.
    for target in walk(len(teacher), start, epochs_per_block):
        ledger.record_step(BATCH, teacher_macs=teacher[target], alignment_macs=alignment_macs(setting))
    return 100 * ledger.saved


def walk(depth: int, start: int, epochs_per_block: int) -> Iterator[int]:
    """The target of each epoch, as an index, where only the time limit moves it; ``start`` is 1-based."""
    limit = Duration(epochs_per_block, "ep")
    scheduler = CkaScheduler(depth, start=start, max_time_per_layer=limit)
    for _ in range(EPOCHS):
        yield scheduler.target
        scheduler.end_epoch()


def mean_block(saved: float) -> float:
    """The mean target block, 1-based, at which a run saves ``saved`` %: every block costs the same."""
    ledger, teacher = empty_ledger(AS_TABLE), prefix_macs(AS_TABLE.teacher)
    ledger.record_step(1, teacher_macs=teacher[0])
    depth = len(teacher)
    per_block = 100 * ledger.saved / (depth - 1)
    return depth - saved / per_block


def empty_ledger(setting: Setting) -> FlopsLedger:
    """A ledger for these models; nothing is booked yet."""
    student = prefix_macs(setting.student)[-1]
    if setting.projector:
        student += projector_macs(setting.student, setting.teacher)
    return FlopsLedger(prefix_macs(setting.teacher)[-1], student)


@cache
def prefix_macs(model: str) -> tuple[int, ...]:
    """MACs per image up to each block."""
    return tuple(count_layer_macs(on_meta(model), (3, PIXELS, PIXELS)).prefixes)


@cache
def projector_macs(student: str, teacher: str) -> int:
    """MACs per image of the head, which takes the class token and all patch tokens."""
    from_layer, to_layer = on_meta(student).layers[-1], on_meta(teacher).layers[-1]
    head = Projector(from_layer.channels, [to_layer.channels]).heads[str(to_layer.channels)]
    tokens = 1 + (PIXELS // from_layer.stride) ** 2
    return count_macs(head, torch.empty(tokens, from_layer.channels))


def alignment_macs(setting: Setting) -> int:
    """MACs of measuring CKA on one batch, patch tokens only; 0 where the setting leaves it out."""
    if not setting.alignment:
        return 0
    layer = on_meta(setting.teacher).layers[-1]
    return ALIGNMENTS["cka"].macs(BATCH * (PIXELS // layer.stride) ** 2, layer.channels)


@cache
def on_meta(model: str) -> LayerFeatureProvider:
    """A backbone whose weights take no memory."""
    with torch.device("meta"):
        provider: LayerFeatureProvider = installed_plugins().get("backbones", "vit")(
            model=model, weights="none", image_size=PIXELS, options={}
        )
    return provider


def saving_table() -> str:
    """Saving over start block and epochs per block, as Markdown."""
    header = ["| FLOPs saved, % |" + "".join(f" {limit} ep |" for limit in LIMITS), _rule(1 + len(LIMITS))]
    rows = [
        f"| start at block {start} |" + "".join(f" {saving(start, limit):.1f} |" for limit in LIMITS)
        for start in STARTS
    ]
    return "\n".join(header + rows)


def nearest_table() -> str:
    """For each number of epochs per block the start whose saving comes nearest to the paper's."""
    depth = len(prefix_macs(AS_TABLE.teacher))
    lines = ["| epochs per block | nearest start | FLOPs saved, % |", _rule(3)]
    for limit in LIMITS:
        savings = {start: saving(start, limit) for start in range(1, depth + 1)}
        start = min(savings, key=lambda s: abs(savings[s] - REPORTED))
        lines.append(f"| {limit} | block {start} | {savings[start]:.1f} |")
    return "\n".join(lines)


def mean_block_line() -> str:
    """The mean target block that the paper's saving means."""
    depth = len(prefix_macs(AS_TABLE.teacher))
    return f"A saving of {REPORTED} % means a mean target block of {mean_block(REPORTED):.1f} of {depth}."


def variants_table() -> str:
    """The lead, start at block 20 and five epochs per block, under other ways to count."""
    lines = ["| start at block 20, 5 epochs per block, counted … | FLOPs saved, % |", _rule(2)]
    lines += [f"| {name} | {saving(20, 5, setting):.2f} |" for name, setting in VARIANTS.items()]
    return "\n".join(lines)


def _rule(columns: int) -> str:
    return "|" + " --- |" * columns


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--start", type=int, metavar="BLOCK", help="first target, 1-based")
    parser.add_argument("--epochs-per-block", type=int, metavar="N", help="length of stay at each block")
    arguments = parser.parse_args()
    if (arguments.start is None) != (arguments.epochs_per_block is None):
        parser.error("--start and --epochs-per-block are given together")
    return arguments


if __name__ == "__main__":
    main()
