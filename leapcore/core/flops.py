"""How much computation a run spends, and what that saves against always using the last layer.

Units: fvcore counts multiply-adds (MACs); 1 MAC = 2 FLOPs. Functions here say which one they return.
Norms and poolings count as fvcore counts them; element-wise operators count as nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapcore.core.counting import analyse, on_meta
from leapcore.core.features import LayerFeatures
from leapcore.core.norms import TargetNorm, own
from leapcore.core.provider import LayerFeatureProvider

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

    Example:
        >>> count_macs(nn.Linear(8, 4), torch.empty(10, 8))
        320
    """
    return int(analyse(module, *inputs).total())


class LayerMacs(NamedTuple):
    """MACs per image of a backbone, layer by layer.

    Attributes:
        steps: Of each layer alone; the first includes what comes before it.
        ends: Of each layer's finalization.

    Example:
        >>> macs = LayerMacs(steps=(7, 5, 5), ends=(1, 1, 2))
        >>> macs.until(1), macs.until(0, 1), macs.whole, macs.prefixes
        (13, 14, 19, [8, 13, 19])
    """

    steps: tuple[int, ...]
    ends: tuple[int, ...]

    def until(self, *layers: int) -> int:
        """MACs of a pass that yields the layers L: ``sum_{i <= max L} steps_i + sum_{l in L} ends_l``."""
        return sum(self.steps[: max(layers) + 1]) + sum(self.ends[layer] for layer in set(layers))

    @property
    def prefixes(self) -> list[int]:
        """MACs of a pass that yields each layer alone, its finalization included."""
        return [self.until(layer) for layer in range(len(self.steps))]

    @property
    def whole(self) -> int:
        """MACs up to and including the last layer."""
        return self.until(len(self.steps) - 1)


def count_layer_macs(
    provider: LayerFeatureProvider, input_shape: Sequence[int] | None = None, *, norm: TargetNorm = own
) -> LayerMacs:
    """MACs per example of each layer and of its finalization.

    Where the provider yields one layer after the other, a single trace gives the cost of each.

    Args:
        provider: The backbone.
        input_shape: (C, H, W) of one image; by default ``provider.example_input()`` is counted.
        norm: How a layer is finalized (:mod:`leapcore.core.norms`).

    Raises:
        CountingError: An operator's cost is not known.

    Example:
        >>> from leapcore import build_backbone
        >>> teacher = build_backbone("vit", weights="asset:digits-vit", image_size=32)
        >>> macs = count_layer_macs(teacher)
        >>> len(macs.steps), f"the first 6 layers cost {macs.until(5) / macs.whole:.0%} of all"
        (12, 'the first 6 layers cost 51% of all')
    """
    example = provider.example_input() if input_shape is None else torch.empty(1, *input_shape)
    if type(provider).features is not LayerFeatureProvider.features:
        return _count_depth_by_depth(provider, example, norm)
    analysis = analyse(_CountedLayers(provider, norm), example)
    per_module, layers = analysis.by_module(), range(len(provider.layers))
    return LayerMacs(
        steps=tuple(int(per_module[f"steps.{layer}"]) for layer in layers),
        ends=tuple(int(per_module[f"ends.{layer}"]) for layer in layers),
    )


def _count_depth_by_depth(provider: LayerFeatureProvider, example: Tensor, norm: TargetNorm) -> LayerMacs:
    """The same where the provider computes its layers together: a trace for each.

    With d_i the MACs of a pass up to layer i, raw, ``steps_i = d_i - d_{i-1}`` and ``d_{-1} = 0``.
    """
    layers = range(len(provider.layers))
    depths = [count_macs(_Prefix(provider, layer), example) for layer in layers]
    with torch.no_grad():
        features = on_meta(provider).eval().features(example.to("meta"), layers)
    finalizations = [_Finalization(provider, norm, layer) for layer in layers]
    return LayerMacs(
        steps=tuple(deeper - shallower for shallower, deeper in pairwise([0, *depths])),
        ends=tuple(count_macs(finalizations[layer], *features[layer].tensors) for layer in layers),
    )


def count_prefix_macs(
    provider: LayerFeatureProvider, layer: int, input_shape: Sequence[int] | None = None
) -> int:
    """MACs per example of the backbone up to and including one layer, its finalization included.

    Args:
        provider: The backbone.
        layer: Index into ``provider.layers``.
        input_shape: (C, H, W) of one image; by default ``provider.example_input()`` is counted.

    Raises:
        CountingError: An operator's cost is not known.

    Example:
        >>> from leapcore import build_backbone
        >>> teacher = build_backbone("vit", weights="asset:digits-vit", image_size=32)
        >>> [f"{count_prefix_macs(teacher, layer) / 1e6:.1f} million" for layer in (0, 11)]
        ['1.3 million', '13.6 million']
    """
    return count_layer_macs(provider, input_shape).until(layer)


@dataclass
class FlopsLedger:
    """Adds up what a run computes, part by part, and what the same run with the last layer as target would.

    With B images in step t, its target k_t, the teacher's MACs T(k) up to layer k of K and the student's S:
    ``spent = 2 (sum_t B (T(k_t) + 3 S) + alignment + calibration)``, ``baseline = 2 sum_t B (T(K) + 3 S)``.

    Args:
        teacher_macs: MACs per image of a baseline step's teachers: each up to its last layer.
        student_macs: MACs per image of a baseline step's student forward pass, projectors included.

    Attributes:
        macs: What was spent so far, by part: teacher, student, alignment, calibration.
        baseline_macs: The same steps with the deepest target that there is and nothing measured.

    Example:
        >>> ledger = FlopsLedger(teacher_macs=1000, student_macs=100)
        >>> ledger.record_step(64, teacher_macs=500)  # half of the teacher ran
        >>> ledger.record_step(64, teacher_macs=1000)
        >>> ledger.spent, ledger.baseline, f"{ledger.saved:.1%}"
        (268800, 332800, '19.2%')
    """

    teacher_macs: int
    student_macs: int
    macs: dict[str, int] = field(
        default_factory=lambda: {"teacher": 0, "student": 0, "alignment": 0, "calibration": 0}
    )
    baseline_macs: int = 0

    def record_step(
        self, images: int, *, teacher_macs: int, student_macs: int | None = None, alignment_macs: int = 0
    ) -> None:
        """Record one training step.

        Args:
            images: Batch size.
            teacher_macs: MACs per image of this step's teachers.
            student_macs: MACs per image of this step's student and projectors; None for the baseline's.
            alignment_macs: MACs of measuring the alignment, if it was measured.
        """
        student = self.student_macs if student_macs is None else student_macs
        self.macs["teacher"] += teacher_macs * images
        self.macs["student"] += STUDENT_STEP * student * images
        self.macs["alignment"] += alignment_macs
        self.baseline_macs += (self.teacher_macs + STUDENT_STEP * self.student_macs) * images

    def record_spared(self, teacher_macs: int) -> None:
        """Take back what was recorded for teachers but not computed, since a cache held it.

        Args:
            teacher_macs: MACs of all images together.
        """
        self.macs["teacher"] -= teacher_macs

    def record_calibration(
        self, images: int, *, teacher_macs: int, student_macs: int, alignment_macs: int
    ) -> None:
        """Record the scan of a teacher: one pass of it, and per layer one of the student and one score.

        Args:
            images: Batch size.
            teacher_macs: MACs per image of the teacher's pass.
            student_macs: MACs per image of all the student's passes.
            alignment_macs: MACs of measuring all the scores.
        """
        self.macs["calibration"] += (teacher_macs + student_macs) * images + alignment_macs

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


class _CountedLayer(nn.Module):
    """Gives the work between two layers a module's name, for fvcore's count by module."""

    def forward(self, layers: Iterator[LayerFeatures]) -> LayerFeatures:
        return next(layers)


class _CountedFinalization(nn.Module):
    """The same for a layer's finalization."""

    def forward(
        self, norm: TargetNorm, provider: LayerFeatureProvider, features: LayerFeatures, layer: int
    ) -> LayerFeatures:
        return norm(provider, features, layer)


class _CountedLayers(nn.Module):
    """A provider whose every layer runs inside a module of its own, ``steps.0`` and so on."""

    def __init__(self, provider: LayerFeatureProvider, norm: TargetNorm) -> None:
        super().__init__()
        self.provider = provider
        self.norm = norm
        self.steps = nn.ModuleList(_CountedLayer() for _ in provider.layers)
        self.ends = nn.ModuleList(_CountedFinalization() for _ in provider.layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        # All results are returned: the tracer drops what is not used.
        layers, results = self.provider.iter_layers(images), []
        for index, (step, end) in enumerate(zip(self.steps, self.ends, strict=True)):
            results += end(self.norm, self.provider, step(layers), index).tensors
        return results


class _Prefix(nn.Module):
    """A provider up to one layer."""

    def __init__(self, provider: LayerFeatureProvider, layer: int) -> None:
        super().__init__()
        self.provider = provider
        self.layer = layer

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.provider.features(images, [self.layer])[0].tensors


class _Finalization(nn.Module):
    """One layer's finalization alone, on its tokens (B, N, C) and prefix tokens (B, P, C)."""

    def __init__(self, provider: LayerFeatureProvider, norm: TargetNorm, layer: int) -> None:
        super().__init__()
        self.provider = provider
        self.norm = norm
        self.layer = layer

    def forward(self, tokens: Tensor, prefix: Tensor | None = None) -> list[Tensor]:
        return self.norm(self.provider, LayerFeatures(tokens, None, prefix), self.layer).tensors
