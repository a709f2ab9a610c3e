"""What the processes of a run exchange in every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from leapcore.distributed.ranks import Ranks
from leapcore.errors import RanksError, shared


class Agreed(NamedTuple):
    """What all processes together know of a step.

    Attributes:
        finite: Whether the loss is finite everywhere.
        signal: The signal that somebody received, 0 if nobody did.
        save: Whether it is time for a checkpoint, by the first process's clock.
        cache_hits: How many images each teacher was spared by its cache, over all processes.
    """

    finite: bool
    signal: int
    save: bool
    cache_hits: list[int]


def agree(
    ranks: Ranks,
    position: Sequence[int],
    *,
    loss: float,
    signal: int,
    save: bool,
    cache_hits: Sequence[int] = (),
) -> Agreed:
    """Exchange what each process knows of this step.

    Args:
        ranks: The processes.
        position: The step, and the target layer of each teacher.
        loss: Of this process's share of the batch.
        signal: As in :class:`Agreed`, here.
        save: As in :class:`Agreed`, here.
        cache_hits: As in :class:`Agreed`, of this process's share.

    Raises:
        RanksError: The processes are at different places.
    """
    rows = ranks.all_gather_numbers([loss, signal, save, *position, *cache_hits])
    losses, signals, saves, *others = zip(*rows, strict=True)
    _check([row[3 : 3 + len(position)] for row in rows])
    return Agreed(
        finite=all(map(math.isfinite, losses)),
        signal=int(max(signals)),
        save=bool(saves[0]),
        cache_hits=[int(sum(counts)) for counts in others[len(position) :]],
    )


def _check(positions: list[list[float]]) -> None:
    if all(position == positions[0] for position in positions):
        return
    steps = [int(step) for step, *_ in positions]
    layers = [[int(layer) + 1 for layer in targets] for _, *targets in positions]
    error = RanksError(
        f"the processes of this run disagree: after the steps {steps} they have the target layers {layers}",
        "All of them need the same files and versions. Go on from the last checkpoint with --resume.",
    )
    raise shared(error)
