"""How much computation a run spends, and what that saves against always using the last layer.

Units: fvcore counts multiply-adds (MACs); 1 MAC = 2 FLOPs. Functions here say which one they return.
Norms and poolings count as fvcore counts them; element-wise operators count as nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leapcore.core.features import LayerFeatureProvider, LayerFeatures
from leapcore.errors import CountingError

FLOPS_PER_MAC = 2
STUDENT_STEP = 3  # forward, plus twice as much for the backward pass (2.99 measured on ViT-S/14)

# Operators of the traced graph whose work grows with the number of elements only.
ELEMENTWISE = frozenset(
    "aten::" + name
    for name in (
        "abs add add_ sub rsub mul mul_ div div_ neg pow sqrt rsqrt exp log sin cos tanh sigmoid "
        "gelu silu silu_ relu6 relu6_ hardtanh hardtanh_ hardswish hardswish_ hardsigmoid elu leaky_relu leaky_relu_ softplus "
        "softmax log_softmax mean sum amax amin max_pool2d avg_pool2d adaptive_max_pool2d norm linalg_vector_norm "
        "square clamp_min clone lift_fresh where repeat repeat_interleave pad upsample_bicubic2d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle pixel_unshuffle unflatten movedim swapaxes "
        "feature_dropout dropout_ bernoulli bernoulli_ rand new_ones ones_like numel floor_divide_ meshgrid "
        "is_floating_point isnan __or__ logical_not flip outer tile alias rms_norm unfold im2col col2im"
    ).split()
)


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Multiply-adds of one forward pass, fused attention included.

    Runs on the meta device: no memory for weights, no arithmetic.

    Args:
        module: Any module; it is not changed.
        inputs: Its arguments; of tensors only shape and dtype matter.

    Raises:
        CountingError: An operator's cost is not known.
    """
    return int(_analyse(module, *inputs).total())


def count_all_prefix_macs(provider: LayerFeatureProvider, input_shape: Sequence[int]) -> list[int]:
    """MACs per image up to and including each layer, its finalization included, from a single trace.

    Args:
        provider: The backbone.
        input_shape: (C, H, W) of one image.

    Raises:
        CountingError: An operator's cost is not known.
    """
    channels, height, width = input_shape
    analysis = _analyse(_LayerByLayer(provider), torch.empty(1, channels, height, width))
    per_module = analysis.by_module()
    prefixes, so_far = [], 0
    for layer in range(len(provider.layers)):
        so_far += int(per_module[f"steps.{layer}"])
        prefixes.append(so_far + int(per_module[f"ends.{layer}"]))
    return prefixes


def count_prefix_macs(provider: LayerFeatureProvider, layer: int, input_shape: Sequence[int]) -> int:
    """MACs per image of the backbone up to and including one layer, its finalization included.

    Args:
        provider: The backbone.
        layer: Index into ``provider.layers``.
        input_shape: (C, H, W) of one image.

    Raises:
        CountingError: An operator's cost is not known.
    """
    return count_all_prefix_macs(provider, input_shape)[layer]


@dataclass
class FlopsLedger:
    """Adds up what a run computes, part by part, and what the fixed-last-layer run would have.

    Args:
        teacher_macs: MACs per image of the teacher up to each layer (:func:`count_all_prefix_macs`).
        student_macs: MACs per image of one student forward pass, projector included.
        alignment_macs: MACs per image of measuring the alignment once.

    Attributes:
        macs: What was spent so far, by part: teacher, student, alignment, calibration.
        baseline_macs: The same steps with the last layer as target and nothing measured.
    """

    teacher_macs: list[int]
    student_macs: int
    alignment_macs: int = 0
    macs: dict[str, int] = field(
        default_factory=lambda: {"teacher": 0, "student": 0, "alignment": 0, "calibration": 0}
    )
    baseline_macs: int = 0

    def record_step(self, layer: int, images: int, *, measured: bool = False) -> None:
        """Book one training step.

        Args:
            layer: Index of the target layer.
            images: Batch size.
            measured: Whether the alignment was measured in this step.
        """
        student = STUDENT_STEP * self.student_macs * images
        self.macs["teacher"] += self.teacher_macs[layer] * images
        self.macs["student"] += student
        self.macs["alignment"] += self.alignment_macs * images if measured else 0
        self.baseline_macs += self.teacher_macs[-1] * images + student

    def record_calibration(self, images: int) -> None:
        """Book the scan: one pass of the whole teacher, and per layer one of the student and one score."""
        per_layer = self.student_macs + self.alignment_macs
        self.macs["calibration"] += (self.teacher_macs[-1] + per_layer * len(self.teacher_macs)) * images

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


def _analyse(module: nn.Module, *inputs: Any) -> FlopCountAnalysis:
    analysis = FlopCountAnalysis(_on_meta(module).eval(), tuple(_to_meta(value) for value in inputs))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.ancestor_mode("caller")  # a module's count is what runs during its call
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("leapcore::convolution", _convolution_macs)
    with torch.no_grad(), _traceable_convolutions():
        analysis.total()  # runs the trace; later calls read its result
    unknown = set(analysis.unsupported_ops()) - ELEMENTWISE
    if unknown:
        raise CountingError(
            f"the cost of {', '.join(sorted(unknown))} in {type(module).__name__} is not known",
            "If it is element-wise, add it to leapcore.core.flops.ELEMENTWISE; else give it a count there.",
        )
    return analysis


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy with the same structure and empty weights: a deep copy that finds its tensors made already."""
    tensors = [*module.parameters(), *module.buffers()]
    made: dict[int, Any] = {id(tensor): _to_meta(tensor) for tensor in tensors}
    return copy.deepcopy(module, made)


def _to_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    empty = torch.empty_like(value, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Two matrix products: queries (..., Q, D) with keys (..., K, D), their weights with values (..., K, V)."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    image, weight, transposed = get_shape(inputs[0]), get_shape(inputs[1]), inputs[3].toIValue()
    return int(conv_flop_count(image, weight, get_shape(outputs[0]), transposed=transposed))


_CONVOLUTIONS = {
    torch.conv1d: False,
    torch.conv2d: False,
    torch.conv3d: False,
    torch.conv_transpose1d: True,
    torch.conv_transpose2d: True,
    torch.conv_transpose3d: True,
}


@contextmanager
def _traceable_convolutions() -> Iterator[None]:
    """Let the tracer see convolutions on the meta device.

    It knows them by the operator that the CPU and CUDA kernels pass through, which the meta kernel does
    not. So each is replaced by an operator of ours that only makes an output of the right shape.
    """
    with _ReplaceConvolutions():
        yield


class _ReplaceConvolutions(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS:
            return func(*args, **kwargs)
        image = args[0] if args else kwargs["input"]
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        shape = _untraced_shape(func, args, kwargs)
        return _convolution_operator()(image, weight, shape, _CONVOLUTIONS[func])


def _untraced_shape(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """The output's shape, found by running the function while the tracer looks away."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        return list(func(*args, **kwargs).shape)
    finally:
        torch._C._set_tracing_state(state)


@cache
def _convolution_operator() -> Any:
    library = torch.library.Library("leapcore", "DEF")
    library.define("convolution(Tensor image, Tensor weight, int[] shape, bool transposed) -> Tensor")
    library.impl("convolution", lambda image, weight, shape, transposed: image.new_empty(shape), "Meta")
    _LIBRARIES.append(library)
    return torch.ops.leapcore.convolution


_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library object
