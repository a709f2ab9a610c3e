"""What the processes of a run tell each other in every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from leapcore.distributed.ranks import Ranks
from leapcore.errors import RanksError, shared


class Agreed(NamedTuple):
    """What all processes together say of a step.

    Attributes:
        finite: Whether the loss is finite everywhere.
        signal: The signal that somebody received, 0 if nobody did.
        save: Whether it is time for a checkpoint, by the first process's clock.
        found: How many images each teacher was spared by its cache, over all processes.
    """

    finite: bool
    signal: int
    save: bool
    found: list[int]


def agree(
    ranks: Ranks, place: Sequence[int], *, loss: float, signal: int, save: bool, found: Sequence[int] = ()
) -> Agreed:
    """Say how it is here, and hear how it is elsewhere.

    Args:
        ranks: The processes.
        place: The step, and the target layer of each teacher.
        loss: Of this process's share of the batch.
        signal: As in :class:`Agreed`, here.
        save: As in :class:`Agreed`, here.
        found: As in :class:`Agreed`, of this process's share.

    Raises:
        RanksError: The processes are at different places.
    """
    words = ranks.exchange([loss, signal, save, *place, *found])
    end = 3 + len(place)
    _check([word[3:end] for word in words])
    return Agreed(
        finite=all(math.isfinite(word[0]) for word in words),
        signal=int(max(word[1] for word in words)),
        save=bool(words[0][2]),
        found=[int(sum(counts)) for counts in zip(*(word[end:] for word in words), strict=True)],
    )


def _check(places: list[list[float]]) -> None:
    if all(place == places[0] for place in places):
        return
    steps = [int(place[0]) for place in places]
    layers = [[int(layer) + 1 for layer in place[1:]] for place in places]
    error = RanksError(
        f"the processes of this run disagree: after the steps {steps} they have the target layers {layers}",
        "All of them need the same files and versions. Go on from the last checkpoint with --resume.",
    )
    raise shared(error)
