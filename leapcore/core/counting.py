"""fvcore's count made fit for vision backbones: fused attention, the meta device, no operator left out.

Everything is in multiply-adds (MACs), as fvcore counts.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any, TypeVar

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_count, get_shape
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leapcore.errors import CountingError

Module = TypeVar("Module", bound=nn.Module)

# Operators whose work grows with the number of elements only; they count as nothing, as in fvcore.
_ELEMENTWISE = """
    abs add add_ addcmul ceil cumsum eye var sub sub_ rsub mul mul_ div div_ neg pow square sqrt rsqrt
    exp log sin cos embedding linspace maximum
    tanh sigmoid gelu silu silu_ relu6 relu6_ hardtanh hardtanh_ hardswish hardswish_ hardsigmoid
    elu leaky_relu leaky_relu_ softplus softmax log_softmax mean sum amax amin norm linalg_vector_norm
    max_pool2d avg_pool1d avg_pool2d adaptive_max_pool2d upsample_linear1d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    clone expand_as reshape_as lift_fresh where repeat repeat_interleave
    pad clamp_min unflatten movedim swapaxes meshgrid flip
    pixel_shuffle pixel_unshuffle unfold im2col col2im tile alias numel floor_divide_ new_ones ones_like
    feature_dropout dropout_ bernoulli bernoulli_ rand rand_like
    isnan is_floating_point logical_not __or__ rms_norm
"""
ELEMENTWISE = {f"aten::{name}" for name in _ELEMENTWISE.split()}


def analyse(module: nn.Module, *inputs: Any) -> FlopCountAnalysis:
    """fvcore's analysis of a module, traced on the meta device: no memory for weights, no arithmetic.

    Args:
        module: Any module; a copy of it is traced.
        inputs: Its arguments; of tensors only shape and dtype matter.

    Raises:
        CountingError: An operator's cost is not known.
    """
    analysis = FlopCountAnalysis(on_meta(module).eval(), tuple(_to_meta(value) for value in inputs))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.ancestor_mode("caller")  # a module's count is what runs during its call
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    analysis.set_op_handle("leapcore::convolution", _convolution_macs)
    with torch.no_grad(), _TraceableConvolutions():
        analysis.total()  # runs the trace; later calls read its result
    unknown = set(analysis.unsupported_ops()) - ELEMENTWISE
    if unknown:
        raise CountingError(
            f"the cost of {', '.join(sorted(unknown))} in {type(module).__name__} is not known",
            "If it is element-wise, add it to leapcore.core.counting.ELEMENTWISE; else count it there.",
        )
    return analysis


def on_meta(module: Module) -> Module:
    """A copy with the same structure, and weights that have a shape but no values and no memory.

    Args:
        module: Any module; it is not changed.

    Example:
        >>> on_meta(nn.Linear(3, 2)).weight
        Parameter containing:
        tensor(..., device='meta', size=(2, 3))
    """
    tensors = [*module.parameters(), *module.buffers()]
    copied: dict[int, Any] = {id(tensor): _to_meta(tensor) for tensor in tensors}
    return copy.deepcopy(module, copied)  # takes what is in `copied` as copied already


def _to_meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    empty = torch.empty_like(value, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """``... Q K (D + V)``: queries (..., Q, D) by keys (..., K, D), then weights by values (..., K, V)."""
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


class _TraceableConvolutions(TorchFunctionMode):
    """Lets the tracer see convolutions on the meta device.

    It knows them by the operator that the CPU and CUDA kernels pass through, which the meta kernel does
    not. So each is replaced by an operator of ours that only makes an output of the right shape.
    """

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
    """The output's shape, from running the function while the tracer is off."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return list(func(*args, **kwargs).shape)
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


@cache
def _convolution_operator() -> Any:
    library = torch.library.Library("leapcore", "DEF")
    library.define("convolution(Tensor image, Tensor weight, int[] shape, bool transposed) -> Tensor")
    library.impl("convolution", lambda image, weight, shape, transposed: image.new_empty(shape), "Meta")
    _LIBRARIES.append(library)
    return torch.ops.leapcore.convolution


_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library object
