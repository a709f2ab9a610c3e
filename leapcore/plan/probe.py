"""A few real steps at three layers, to measure their time on this machine. Nothing is written."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leapcore.core.duration import RunLength
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.distributed.ranks import join
from leapcore.errors import Interrupted, WeightsError
from leapcore.plan.costs import Costs, Walks
from leapcore.plan.parts import weightless
from leapcore.plugins.dispatch import Events
from leapcore.runs.forecast import Stay, StepTimes, ends, together
from leapcore.spec import EvaluateSpec, Spec
from leapcore.spec.engine import CacheSpec
from leapcore.spec.paths import weights_path
from leapcore.train.build import build
from leapcore.train.loop import Loop

STEPS = 10  # that are measured at each layer
BEFORE = 3  # that are not: memory is allocated, images are fetched ahead


@dataclass(frozen=True)
class Measured:
    """Steps at one layer.

    Attributes:
        targets: Each teacher's 0-based layer.
        seconds: The median of a step.
        waiting: Share of the time that was spent waiting for images.
        peak_gb: The most memory that tensors took on a GPU, in GB; None on a CPU.
    """

    targets: Mapping[str, int]
    seconds: float
    waiting: float
    peak_gb: float | None


@dataclass(frozen=True)
class Probe:
    """What a few steps took.

    Attributes:
        device: Where they were taken.
        measured: At the first layer of the walk, one in the middle and the last.
    """

    device: str
    measured: list[Measured]

    def seconds(self, costs: Costs, walks: Walks) -> float:
        """The seconds that the steps of a whole run would take: a line over their FLOPs."""
        times = StepTimes()
        for one in self.measured:  # as if from many steps: three layers are enough for a line
            times.note(costs.step(one.targets), 100 * STEPS, 100 * STEPS * one.seconds)
        each = together({name: ends(stays) for name, stays in walks.items()})
        return sum(steps * times.of(costs.step(targets)) for steps, targets in each)


def probe(costs: Costs, report: Callable[[str], None] = lambda text: None) -> Probe:
    """Take real steps, on images and with models of their true size.

    Weights that are not at hand are random: a step takes as long with them.

    Args:
        costs: The run's.
        report: Called with what is measured next.

    Raises:
        LeapcoreError: The run could not be started.
        Interrupted: Ctrl-C or SIGTERM.
    """
    report("building")
    parts = build(_bare(costs.parts.spec), join())
    places = _places(costs)
    for teacher in parts.teachers:
        stays = [Stay(place[teacher.name], BEFORE + STEPS, 0) for place in places]
        teacher.scheduler = Scripted(teacher.scheduler, stays)
    parts.length = RunLength(len(places) * (BEFORE + STEPS), parts.length.steps_per_epoch)
    recorder = _StepRecorder(report, len(places))
    loop = Loop(parts, recorder)
    loop.fit()
    if loop.stopped:
        raise Interrupted("stopped while steps were measured; nothing was written")
    batch = costs.parts.spec.train.batch_size
    measured = [_measured(place, recorder.at(index), batch) for index, place in enumerate(places)]
    return Probe(str(parts.device), measured)


def _bare(spec: Spec) -> Spec:
    """The spec of a run that evaluates nothing, keeps nothing and downloads nothing."""
    return spec.model_copy(
        update={
            "evaluate": EvaluateSpec(knn="never", linear="never"),
            "cache": CacheSpec(),
            "train": spec.train.model_copy(update={"log_every": 1, "nonfinite_steps": "skip"}),
            "teacher": spec.teacher and _local(spec.teacher),
            "teachers": {name: _local(teacher) for name, teacher in spec.teachers.items()},
            "student": _local(spec.student),
        }
    )


def _local(backbone: Any) -> Any:
    """A model's section of the spec, with its own weights where they are on this machine."""
    try:
        weights_path(backbone.weights)
    except WeightsError:
        return weightless(backbone)
    return weightless(backbone) if backbone.weights == "pretrained" else backbone


def _places(costs: Costs) -> list[dict[str, int]]:
    """Three moments of the walk: each teacher's first target, its last layer, and one between."""
    first = {name: stays[0].target for name, stays in costs.by_the_clock().items()}
    last = {name: depth - 1 for name, depth in costs.parts.depths.items()}
    middle = {name: (first[name] + last[name]) // 2 for name in last}
    return [dict(place) for place in dict.fromkeys(tuple(p.items()) for p in (first, middle, last))]


class Scripted(DifficultyScheduler):
    """Goes through a list of stays, and asks for scores as another scheduler would there.

    Args:
        real: The other one.
        stays: How long each target stays.
    """

    def __init__(self, real: DifficultyScheduler, stays: Sequence[Stay]) -> None:
        super().__init__(real.num_layers)
        self._real = copy.deepcopy(real)
        self._targets = [stay.target for stay in stays for _ in range(stay.steps)]
        self.alignment, self.sample_images = real.alignment, real.sample_images
        self.steps, self.target = 0, self._targets[0]

    @property
    def wants_score(self) -> bool:
        """As the other one."""
        self._real.target = self.target
        return self._real.wants_score

    def step(self, score: float | None) -> bool:
        """Go on in the script; the other one only counts."""
        self._real.step(None)
        self.steps += 1
        before, self.target = self.target, self._targets[min(self.steps, len(self._targets) - 1)]
        return self.target != before


class _StepRecorder(Events):
    """Keeps the metrics of each step."""

    def __init__(self, report: Callable[[str], None], places: int) -> None:
        self._report, self._places = report, places
        self._steps = list[dict[str, Any]]()

    def metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """A step is done."""
        self._steps.append(metrics)
        self._report(f"step {step} of {self._places * (BEFORE + STEPS)}")

    def at(self, place: int) -> list[dict[str, Any]]:
        """Metrics of the steps that are measured at a place."""
        begin = place * (BEFORE + STEPS)
        return self._steps[begin + BEFORE : begin + BEFORE + STEPS]


def _measured(targets: Mapping[str, int], steps: Sequence[dict[str, Any]], batch: int) -> Measured:
    seconds = [batch / step["images_per_second"] for step in steps]
    waited = sum(step["data_wait"] * taken for step, taken in zip(steps, seconds, strict=True))
    peaks = [step["peak_memory_gb"] for step in steps if "peak_memory_gb" in step]
    return Measured(targets, statistics.median(seconds), waited / sum(seconds), max(peaks, default=None))
