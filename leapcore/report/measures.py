"""What runs are measured by, as tables and captions name it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from leapcore.runs.reader import Run


class Measure(NamedTuple):
    """A figure of a run that is over.

    Attributes:
        name: In the midst of a sentence.
        title: At its beginning.
        read: Reads it from a run; NaN where the run has none.
    """

    name: str
    title: str
    read: Callable[[Run], float]


def accuracy(name: str) -> Callable[[Run], float]:
    """Reads an accuracy of a run's end, a share; NaN where it has none."""
    return lambda run: run.summary.accuracy.get(name, math.nan)


ACCURACIES = (
    Measure("kNN", "kNN", accuracy("knn")),
    Measure("linear probe", "Linear probe", accuracy("linear")),
)


def training_seconds(run: Run) -> float:
    """Wall time of a run's training in seconds."""
    return run.summary.time.get("training_seconds", math.nan)


def spent_flops(run: Run) -> float:
    """The FLOPs of a run's training."""
    return float(run.summary.flops["spent"])


def saved_flops(run: Run) -> float:
    """The share of FLOPs that a run saved against its teacher's last layer throughout."""
    return float(run.summary.flops["saved"])
