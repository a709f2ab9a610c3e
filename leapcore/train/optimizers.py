"""Optimizers from timm: which parameters decay, and which optimizers ZeRO may cut into pieces."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from leapcore.checkpoints.plain import plain
from leapcore.compat import import_timm
from leapcore.core.projection import Projector
from leapcore.errors import SpecError, did_you_mean
from leapcore.spec import Spec
from leapcore.spec.training import OptimizerSpec

_EMBEDDINGS = ("pos_embed", "cls_token", "reg_token", "dist_token")


def peak_lr(spec: Spec) -> float:
    """The peak learning rate, scaled with the square root of the batch where the spec names a reference."""
    reference = spec.optimizer.reference_batch or spec.train.batch_size
    return spec.optimizer.lr * math.sqrt(spec.train.batch_size / reference)


def build_optimizer(module: nn.Module, spec: OptimizerSpec, lr: float, *, zero_stage: int = 0) -> Any:
    """timm's optimizer; norms, biases, embeddings and heads that wait for their turn do not decay.

    Raises:
        SpecError: It is unknown, cannot be used here, or not with this ZeRO stage.
    """
    import_timm()
    from timm.optim import list_optimizers, param_groups_weight_decay

    if spec.name not in list_optimizers():
        raise SpecError(
            f"optimizer.name: timm has no optimizer '{spec.name}'", did_you_mean(spec.name, list_optimizers())
        )
    if zero_stage and not _is_elementwise(
        lambda parameters: _create(parameters, spec.name, lr, weight_decay=0.1)
    ):
        raise SpecError(
            f"optimizer.name: '{spec.name}' looks at whole layers, but ZeRO cuts them into pieces: "
            "its steps would be others",
            "Set engine.zero_stage: 0, or use an optimizer such as adamw or sgd.",
        )
    _check_saved(_create([torch.ones(4, 4)], spec.name, lr), spec.name)
    names = [name for name, _ in module.named_parameters()]
    spared = {name for name in names if name.rpartition(".")[2] in _EMBEDDINGS} | _heads_in_waiting(module)
    groups = param_groups_weight_decay(module, spec.weight_decay, no_weight_decay_list=spared)
    return _create(groups, spec.name, lr)


def _create(parameters: Iterable[Any], name: str, lr: float, weight_decay: float = 0.0) -> Any:
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(parameters, opt=name, lr=lr, weight_decay=weight_decay)
    # Some of timm's optimizers need a package or a GPU, and each says so in its own way.
    except Exception as error:
        raise SpecError(
            f"optimizer.name: '{name}' cannot be used here: {type(error).__name__}: {error}",
            "Use another one, such as lars, adamw or sgd.",
        ) from error


def _check_saved(optimizer: Any, name: str) -> None:
    """Let an optimizer take a step, and see whether a checkpoint can hold what it remembers."""
    (parameter,) = optimizer.param_groups[0]["params"]
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [*optimizer.state[parameter].values()]
    kept += [value for key, value in optimizer.param_groups[0].items() if key != "params"]
    try:
        json.dumps([plain(value) for value in kept])
    except TypeError as error:
        raise SpecError(
            f"optimizer.name: what '{name}' remembers does not fit into a checkpoint ({error})",
            "Use another one, such as lars, adamw or sgd.",
        ) from error


def _is_elementwise(create: Callable[[list[Tensor]], Any]) -> bool:
    """Whether matrices take the same steps in one piece as cut into two flat ones, as ZeRO does.

    A small one and one that is large enough for optimizers that approximate large ones.
    """
    return all(_steps_alike_in_pieces(create, *shape) for shape in ((6, 8), (160, 140)))


def _steps_alike_in_pieces(create: Callable[[list[Tensor]], Any], rows: int, columns: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    start, *gradients = torch.randn(4, rows, columns, generator=generator)
    third = start.numel() // 3 + 1
    whole, cut = [start.clone()], [part.clone() for part in start.flatten().tensor_split([third])]
    for parameters in (whole, cut):
        optimizer = create([parameter.requires_grad_() for parameter in parameters])
        for gradient in gradients:
            parts = gradient.flatten().split([parameter.numel() for parameter in parameters])
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.grad = part.view_as(parameter).clone()
            optimizer.step()
    return torch.allclose(whole[0].flatten(), torch.cat(cut), rtol=1e-5, atol=1e-7)


def _heads_in_waiting(module: nn.Module) -> set[str]:
    """Heads of which there are several: those that are not the target's would only shrink."""
    projectors = [(path, part) for path, part in module.named_modules() if isinstance(part, Projector)]
    return {
        f"{path}.{name}"
        for path, projector in projectors
        if len(projector.heads) > 1
        for name, _ in projector.named_parameters()
    }
