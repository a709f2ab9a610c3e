"""A plan's sections about memory and disk."""

from __future__ import annotations

from collections.abc import Iterator

from leapcore.plan.costs import Costs
from leapcore.plan.probe import Probe
from leapcore.plan.scenarios import Scenario
from leapcore.plan.sizes import Trained, cached, resident, trained
from leapcore.report.document import Block, Table, Text
from leapcore.report.numbers import NOTHING

PROCESSES = (1, 8)
_STAGES = {0: "nothing", 1: "optimizer state", 2: "and gradients", 3: "and weights"}


def memory(costs: Costs, probed: Probe | None) -> Iterator[Block]:
    """Weights, gradients and optimizer state; what activations take is measured or left out."""
    size, precision = trained(costs.parts), costs.parts.spec.train.precision
    rows = [
        ["student, weights", _mega(size.student)],
        ["projectors, weights", _mega(size.projectors)],
        ["gradients", _mega(size.gradients)],
        [f"optimizer state, {costs.parts.spec.optimizer.name}", _mega(size.state)],
    ]
    for teacher in costs.parts.teachers:
        sizes, owner = resident(teacher, precision), f" of {teacher.name}" if len(costs.layers) > 1 else ""
        rows.append([f"teacher's weights{owner} on a GPU, target layer 1", _mega(sizes[0])])
        rows.append([f"teacher's weights{owner} on a GPU, target layer {len(sizes)}", _mega(sizes[-1])])
    yield Table(
        ["memory", "MB"],
        rows,
        "MB are 10^6 bytes. Student, projectors and their optimizer are kept in float32. On a GPU, a "
        "teacher's blocks are there up to the target and the next; else all are in the host's memory.",
    )
    yield _partitioned(size)
    yield Text(_activations(probed))


def _partitioned(size: Trained) -> Table:
    rows = [
        [f"{stage}: {what}", *(_mega(size.per_process(stage, processes)) for processes in PROCESSES)]
        for stage, what in _STAGES.items()
    ]
    names = [f"{count} process{'es' * (count > 1)}, MB each" for count in PROCESSES]
    caption = "Weights, gradients and optimizer state. Copies and buffers that DeepSpeed makes come on top."
    return Table(["engine.zero_stage partitions", *names], rows, caption)


def _activations(probed: Probe | None) -> str:
    peaks = [one.peak_gb for one in probed.measured if one.peak_gb is not None] if probed else []
    if peaks:
        return f"With activations, tensors took {max(peaks):.2f} GB at most in the steps that were measured."
    if probed:
        return "Activations come on top; a probe measures them on a GPU only."
    return "Activations come on top and are not guessed: on a GPU, --probe measures them."


def disk(costs: Costs, course: Scenario) -> Table:
    """Checkpoints, student and cache."""
    spec, size = costs.parts.spec, trained(costs.parts)
    one, keep = size.checkpoint, spec.checkpoint.keep
    rows = [
        ["one checkpoint", _mega(one)],
        [f"checkpoint.keep: {keep}, and the one being written", _mega(one and one * (keep + 1))],
        ["student", _mega(size.exported)],
    ]
    if spec.cache.folder is not None:
        size_of_all, limit = cached(costs, course.walks), int(1e9 * spec.cache.limit_gb)
        known = costs.parts.images is not None
        rows.append([f"cache, of all features ({course.name})", _mega(size_of_all if known else None)])
        rows.append(["cache, with its limit", _mega(min(size_of_all, limit) if known else limit)])
    return Table(["disk", "MB"], rows, "Tensors alone; logs and pages are small beside them.")


def _mega(size: int | None) -> str:
    return NOTHING if size is None else f"{size / 1e6:,.{0 if size >= 1e8 else 2}f}"
