"""Warnings about a run before it starts, each with its evidence and a remedy."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from leapcore.core.duration import Duration
from leapcore.distributed.cores import cores_each
from leapcore.plan.costs import Costs
from leapcore.plan.sizes import trained
from leapcore.runs.forecast import Stay
from leapcore.train.costs import TOKENS_PER_CHANNEL
from leapcore.train.schedules import lr_warmup
from leapcore.train.teacher import Teacher

DROPPED = 0.1  # share of an epoch whose images are left out that is worth a warning
LITTLE = 0.05  # share of a run's FLOPs below which no curriculum saves much
FLAT = 1e-3  # of a step's FLOPs: layers that differ by less cost the same


class Advice(NamedTuple):
    """A warning.

    Attributes:
        cause: What is wrong, with the figures that show it.
        remedy: What to set.
    """

    cause: str
    remedy: str


def advice(costs: Costs) -> list[Advice]:
    """All warnings that follow from what is known of a run."""
    checks: tuple[Callable[[Costs], Iterator[Advice]], ...] = (
        _of_spec,
        _of_data,
        _of_schedule,
        _of_curricula,
        _of_savings,
        _of_layers,
        _of_alignment,
        _of_evaluation,
        _of_machine,
    )
    return [warning for check in checks for warning in check(costs)]


def _of_spec(costs: Costs) -> Iterator[Advice]:
    for cause, remedy in costs.parts.spec.warnings:
        yield Advice(cause, remedy)


def _of_data(costs: Costs) -> Iterator[Advice]:
    images, batch = costs.parts.images, costs.parts.spec.train.batch_size
    if images is None:
        return
    if images < batch:
        yield Advice(
            f"a batch of {batch} is larger than the data, {images:,} images: the run would not start",
            f"Set train.batch_size to {images} or less.",
        )
    elif images % batch / images > DROPPED:
        yield Advice(
            f"each epoch leaves out {images % batch:,} of {images:,} images, too few for one more batch of "
            f"{batch}",
            f"Set train.batch_size to {_fitting(images, batch)}, or leave it: they are others each time.",
        )


def _fitting(images: int, batch: int) -> int:
    """A batch no larger, of which an epoch leaves out the fewest images."""
    return min(range(batch, max(1, batch // 2), -1), key=lambda size: images % size)


def _of_schedule(costs: Costs) -> Iterator[Advice]:
    total, spec = costs.parts.length.total_steps, costs.parts.spec
    warmup = lr_warmup(spec.optimizer, costs.parts.length)
    if warmup >= total and spec.optimizer.restart is None:
        yield Advice(
            f"the learning rate climbs for {spec.optimizer.warmup}, which is the whole run of "
            f"{spec.train.duration}: it never comes down",
            "Shorten optimizer.warmup; LEAP's is a tenth of the run at most.",
        )


def _of_curricula(costs: Costs) -> Iterator[Advice]:
    walks = costs.by_the_clock()
    for teacher in costs.parts.teachers:
        stays, listens = walks[teacher.name], teacher.scheduler.alignment is not None
        short = max(stay.target for stay in stays) < teacher.match.target.choices - 1
        if short and (listens or len(stays) > 1):  # a single layer without a score is what was asked for
            yield _short_of_the_last(costs, teacher, stays)


def _short_of_the_last(costs: Costs, teacher: Teacher, stays: Sequence[Stay]) -> Advice:
    first, reached, depth = stays[0].target + 1, stays[-1].target + 1, teacher.match.target.choices
    if teacher.scheduler.alignment is None:
        return Advice(
            f"{_label(costs, teacher)}the walk ends at layer {reached} of {depth}, and was never at the last",
            "Give the curriculum less time, or the run more (train.duration).",
        )
    limit = getattr(teacher.scheduler, "max_time_per_layer", None)
    if limit is None:
        return Advice(
            f"{_label(costs, teacher)}no limit of time moves the target on: without a good enough score it "
            f"ends at layer {reached} of {depth}",
            "Set curriculum.max_time_per_layer, or see that the student gets there.",
        )
    duration = costs.parts.spec.train.duration
    fitting = (duration.amount - 1) // (depth - first) if duration.unit == limit.unit else 0
    shorter = f"Set curriculum.max_time_per_layer to {fitting}{limit.unit} or less, " if fitting else ""
    return Advice(
        f"{_label(costs, teacher)}with {limit} at each layer, a walk from layer {first} has come to layer "
        f"{reached} of {depth} when the run of {duration} ends; only good scores bring it further",
        f"{shorter or 'Lengthen train.duration, '}start deeper (curriculum.start), or rely on the scores.",
    )


def _of_savings(costs: Costs) -> Iterator[Advice]:
    baseline = costs.step({name: depth - 1 for name, depth in costs.parts.depths.items()})
    least = costs.step(dict.fromkeys(costs.parts.depths, 0))
    if not costs.moves:
        return
    if costs.parts.spec.objective.target == "layer+last":
        yield Advice(
            "objective.target: layer+last needs the last layer in every step, so that no walk saves FLOPs",
            "Set objective.target: layer, if they are to be saved.",
        )
    elif 1 - least / baseline < LITTLE:
        yield Advice(
            f"a step against the first layer costs {least / baseline:.1%} of one against the last: "
            "no curriculum can save more than the difference",
            "The walk may still help the student; to save FLOPs takes a larger teacher.",
        )


def _of_layers(costs: Costs) -> Iterator[Advice]:
    if not costs.moves or costs.parts.spec.objective.target == "layer+last":
        return
    for teacher in costs.parts.teachers:
        macs = costs.layers[teacher.name].teacher
        steps = enumerate(itertools.pairwise(macs), 2)
        flat = [layer for layer, (before, until) in steps if until - before < FLAT * macs[-1]]
        if flat:
            yield Advice(
                f"{_label(costs, teacher)}{_layers(flat)} cost no more than the layer before, within "
                f"{FLAT:.1%} of the whole teacher: passing them one by one saves nothing",
                "Start at the deepest of them (curriculum.start), or name the others in a steps scheduler.",
            )


def _layers(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:6])) + (", …" if len(numbers) > 6 else "")
    return f"layer{'s' * (len(numbers) > 1)} {shown}"


def _of_alignment(costs: Costs) -> Iterator[Advice]:
    for teacher in costs.parts.teachers:
        layers = costs.layers[teacher.name]
        few = [target for target in range(len(layers.tokens)) if layers.few_tokens(target)]
        if few:
            worst = min(few, key=lambda index: layers.tokens[index] / layers.widths[index])
            yield Advice(
                f"{_label(costs, teacher)}linear CKA is measured on {layers.tokens[worst]:,} tokens of width "
                f"{layers.widths[worst]:,} (layer {worst + 1}): fewer than {TOKENS_PER_CHANNEL} a channel "
                "make it too high",
                "Set curriculum.unbiased: true, a larger batch, or more curriculum.sample_images.",
            )


def _of_evaluation(costs: Costs) -> Iterator[Advice]:
    evaluate, length = costs.parts.spec.evaluate, costs.parts.length
    duration = costs.parts.spec.train.duration
    if not evaluate.measures_accuracy:
        yield Advice(
            "nothing is evaluated: no figure will show what the student has learned",
            "Set evaluate.knn: end, or evaluate.linear: end.",
        )
    for key, every in (("knn", evaluate.knn), ("cka_map", evaluate.cka_map)):
        if isinstance(every, Duration) and every.in_steps(length.steps_per_epoch) >= length.total_steps:
            yield Advice(
                f"evaluate.{key}: {every} is never due before the end of the run, {duration}",
                f"Shorten it, or write evaluate.{key}: end.",
            )


def _of_machine(costs: Costs) -> Iterator[Advice]:
    spec, cores = costs.parts.spec, cores_each()
    if spec.data.workers > cores:
        yield Advice(
            f"{spec.data.workers} processes are to load images, on {cores} cores of this machine",
            f"Set data.workers to {cores} or less, if the run is to be here.",
        )
    size, free = trained(costs.parts), shutil.disk_usage(Path()).free
    needed = size.exported + (size.checkpoint or 0) * (spec.checkpoint.keep + 1)
    if needed > free:
        yield Advice(
            f"checkpoints and student take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here",
            "Free some space, name another disk with --output, or lower checkpoint.keep.",
        )
    if torch.get_num_threads() > cores:
        yield Advice(
            f"torch computes with {torch.get_num_threads()} threads on {cores} cores",
            f"Set OMP_NUM_THREADS to {cores} or less.",
        )


def _label(costs: Costs, teacher: Teacher) -> str:
    return f"{teacher.name}: " if len(costs.parts.teachers) > 1 else ""
