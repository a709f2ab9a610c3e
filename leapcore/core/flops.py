"""How much computation a run spends, and what that saves against always using the last layer.

Units: fvcore counts multiply-adds (MACs); 1 MAC = 2 FLOPs. Functions here say which one they return.
Norms and poolings count as fvcore counts them; element-wise operators count as nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapcore.core.counting import analyse
from leapcore.core.features import LayerFeatureProvider, LayerFeatures

FLOPS_PER_MAC = 2
STUDENT_STEP = 3  # forward, plus twice as much for the backward pass (2.99 measured on ViT-S/14)


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of one forward pass, fused attention included.

    Runs on the meta device: no memory for weights, no arithmetic.

    Args:
        module: Any module; it is not changed.
        inputs: Its arguments; of tensors only shape and dtype matter.

    Raises:
        CountingError: An operator's cost is not known.
    """
    return int(analyse(module, *inputs).total())


class LayerMacs(NamedTuple):
    """MACs per image of a backbone, layer by layer.

    Attributes:
        steps: Of each layer alone; the first includes what comes before it.
        ends: Of each layer's finalization.
    """

    steps: tuple[int, ...]
    ends: tuple[int, ...]

    def until(self, *layers: int) -> int:
        """MACs of a pass that yields these layers: up to the deepest, and each one's finalization."""
        return sum(self.steps[: max(layers) + 1]) + sum(self.ends[layer] for layer in set(layers))

    @property
    def prefixes(self) -> list[int]:
        """MACs up to and including each layer alone."""
        return [self.until(layer) for layer in range(len(self.steps))]

    @property
    def whole(self) -> int:
        """MACs up to and including the last layer."""
        return self.until(len(self.steps) - 1)


def count_layer_macs(provider: LayerFeatureProvider, input_shape: Sequence[int]) -> LayerMacs:
    """MACs per image of each layer and of its finalization, from a single trace.

    Args:
        provider: The backbone.
        input_shape: (C, H, W) of one image.

    Raises:
        CountingError: An operator's cost is not known.
    """
    channels, height, width = input_shape
    analysis = analyse(_LayerByLayer(provider), torch.empty(1, channels, height, width))
    per_module, layers = analysis.by_module(), range(len(provider.layers))
    return LayerMacs(
        steps=tuple(int(per_module[f"steps.{layer}"]) for layer in layers),
        ends=tuple(int(per_module[f"ends.{layer}"]) for layer in layers),
    )


def count_prefix_macs(provider: LayerFeatureProvider, layer: int, input_shape: Sequence[int]) -> int:
    """MACs per image of the backbone up to and including one layer, its finalization included.

    Args:
        provider: The backbone.
        layer: Index into ``provider.layers``.
        input_shape: (C, H, W) of one image.

    Raises:
        CountingError: An operator's cost is not known.
    """
    return count_layer_macs(provider, input_shape).until(layer)


@dataclass
class FlopsLedger:
    """Adds up what a run computes, part by part, and what the fixed-last-layer run would have.

    Args:
        teacher_macs: MACs per image of a baseline step's teachers: each up to its last layer.
        student_macs: MACs per image of one student forward pass, projectors included.

    Attributes:
        macs: What was spent so far, by part: teacher, student, alignment, calibration.
        baseline_macs: The same steps with the deepest target that there is and nothing measured.
    """

    teacher_macs: int
    student_macs: int
    macs: dict[str, int] = field(
        default_factory=lambda: {"teacher": 0, "student": 0, "alignment": 0, "calibration": 0}
    )
    baseline_macs: int = 0

    def record_step(self, images: int, *, teacher_macs: int, alignment_macs: int = 0) -> None:
        """Book one training step.

        Args:
            images: Batch size.
            teacher_macs: MACs per image of this step's teachers.
            alignment_macs: What measuring the alignment took, if it was measured.
        """
        student = STUDENT_STEP * self.student_macs * images
        self.macs["teacher"] += teacher_macs * images
        self.macs["student"] += student
        self.macs["alignment"] += alignment_macs
        self.baseline_macs += self.teacher_macs * images + student

    def record_calibration(
        self, images: int, *, teacher_macs: int, student_passes: int, alignment_macs: int
    ) -> None:
        """Book the scan of a teacher: one pass of it, and per layer one of the student and one score.

        The student's passes count with all their heads, of which a scan uses one: an upper bound.

        Args:
            images: Batch size.
            teacher_macs: MACs per image of the teacher's pass.
            student_passes: How many layers were compared.
            alignment_macs: What all the scores took together.
        """
        student = self.student_macs * student_passes
        self.macs["calibration"] += (teacher_macs + student) * images + alignment_macs

    @property
    def spent(self) -> int:
        """FLOPs spent so far."""
        return FLOPS_PER_MAC * sum(self.macs.values())

    @property
    def baseline(self) -> int:
        """FLOPs that the same steps cost with the last layer as fixed target."""
        return FLOPS_PER_MAC * self.baseline_macs

    @property
    def saved(self) -> float:
        """Share of the baseline that was saved; below 0 if more was spent, 0 before the first step."""
        return 1 - self.spent / self.baseline if self.baseline else 0.0

    def flops_by_part(self) -> dict[str, int]:
        """FLOPs spent so far by part."""
        return {part: FLOPS_PER_MAC * macs for part, macs in self.macs.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        vars(self).update(copy.deepcopy(state))


class _Step(nn.Module):
    """Gives the work between two layers a module's name, for fvcore's count by module."""

    def forward(self, layers: Iterator[LayerFeatures]) -> LayerFeatures:
        return next(layers)


class _End(nn.Module):
    """The same for a layer's finalization."""

    def forward(self, provider: LayerFeatureProvider, features: LayerFeatures, layer: int) -> LayerFeatures:
        return provider.finalize(features, layer)


class _LayerByLayer(nn.Module):
    """A provider whose every layer runs inside a step of its own."""

    def __init__(self, provider: LayerFeatureProvider) -> None:
        super().__init__()
        self.provider = provider
        self.steps = nn.ModuleList(_Step() for _ in provider.layers)
        self.ends = nn.ModuleList(_End() for _ in provider.layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        # All results are returned: the tracer drops whatever nobody uses.
        layers, results = self.provider.iter_layers(images), []
        for index, (step, end) in enumerate(zip(self.steps, self.ends, strict=True)):
            features = end(self.provider, step(layers), index)
            results += [t for t in (features.tokens, features.prefix_tokens) if t is not None]
        return results
