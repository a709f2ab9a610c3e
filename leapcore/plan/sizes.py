"""What a run needs in memory and on disk, as far as that follows from shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from leapcore.cache.encoding import record_size
from leapcore.core.layer_check import layer_shapes
from leapcore.core.matching import TeacherFeatures
from leapcore.models.residency import layer_bytes
from leapcore.plan.costs import Costs, Walks
from leapcore.plan.parts import PlannedRun
from leapcore.train.optimizers import build_optimizer, peak_lr
from leapcore.train.teacher import Teacher

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Trained:
    """Bytes of what is trained.

    Attributes:
        student: Weights of the student.
        projectors: Weights of the projectors.
        gradients: Of both.
        state: What the optimizer remembers; None if that takes more than shapes to know.
        exported: The student's file.
    """

    student: int
    projectors: int
    gradients: int
    state: int | None
    exported: int

    @property
    def weights(self) -> int:
        """Of student and projectors."""
        return self.student + self.projectors

    @property
    def checkpoint(self) -> int | None:
        """A checkpoint's tensors."""
        return None if self.state is None else self.weights + self.state

    def per_process(self, stage: int, processes: int) -> int | None:
        """Bytes in each process where ZeRO partitions as its stage says."""
        if self.state is None:
            return None
        share = (self.state, self.gradients, self.weights)
        whole = sum(part for level, part in enumerate(share, 1) if stage < level)
        return whole + sum(part for level, part in enumerate(share, 1) if stage >= level) // processes


def trained(parts: PlannedRun) -> Trained:
    """The sizes of what a run trains; the optimizer takes a step on the meta device."""
    student = _bytes(parts.distiller.student)
    weights = _bytes(parts.distiller)
    gradients = sum(FLOAT * p.numel() for p in parts.distiller.parameters() if p.requires_grad)
    exported = _bytes(parts.distiller.student.model)
    return Trained(student, weights - student, gradients, _optimizer_state(parts), exported)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in module.state_dict().values())


def _optimizer_state(parts: PlannedRun) -> int | None:
    spec = parts.spec
    optimizer = build_optimizer(parts.distiller, spec.optimizer, peak_lr(spec))
    for parameter in parts.distiller.parameters():
        parameter.grad = torch.empty_like(parameter)
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError):  # it looks at values, which the meta device has not
        return None
    finally:
        parts.distiller.zero_grad()
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.itemsize for value in kept if isinstance(value, torch.Tensor))


def resident(teacher: Teacher, precision: str) -> list[int]:
    """Bytes of a teacher's weights on a GPU while each layer is the target, shallow to deep."""
    shared, layers = layer_bytes(teacher.provider, narrow=precision != "float32")
    deepest = [max(teacher.match.teacher_layers(k)) for k in range(teacher.match.target.choices)]
    return [shared + sum(layers[: last + 2]) for last in deepest]  # the next layer is there, too


def cached(costs: Costs, walks: Walks) -> int:
    """Bytes of a cache that holds all that a run computes, with views in every epoch of their own or not."""
    parts = costs.parts
    views, total = parts.spec.data.augment.views, 0
    stored = {teacher.name: _feature_bytes(teacher) for teacher in parts.teachers}
    for name, stays in walks.items():
        for target in {stay.target for stay in stays}:
            steps = sum(stay.steps for stay in stays if stay.target == target)
            kept = min(steps, views * parts.length.steps_per_epoch) if views else steps
            size = stored[name][target]
            total += kept * parts.spec.train.batch_size * _stored(size, parts.spec.train.precision)
    return total


def _feature_bytes(teacher: Teacher) -> list[int]:
    """Bytes per image of the features, in float32, that each target needs of a teacher."""
    provider, match = teacher.provider, teacher.match
    shapes = layer_shapes(provider)
    embedding = provider.embed(provider.example_input().to("meta")) if match.embedding else None
    return [
        record_size(TeacherFeatures([shapes[k] for k in match.teacher_layers(layer)], embedding))
        for layer in range(match.target.choices)
    ]


def _stored(size: int, precision: str) -> int:
    return size if precision == "float32" else size // 2
