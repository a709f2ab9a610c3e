"""Weights and optimizer state as whole tensors, wherever ZeRO keeps their pieces.

What is saved this way fits any number of processes and any ZeRO stage.

ZeRO gives each of R processes one flat float32 piece (N / R,) of the N values of a parameter group, padding
included. In stages 1 and 2 it joins the group's parameters and cuts the result in R; in stage 3 it cuts each
parameter in R and joins a process's cuts. The optimizer sees only pieces: what it keeps of a group, such as
``exp_avg``, is one tensor (N / R,) per process, and one step count for all parameters in it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leapcore.checkpoints.plain import plain, restored, size
from leapcore.compat import import_deepspeed
from leapcore.train.deepspeed import Engine

Tensors = dict[str, Tensor]


def whole_weights(engine: Engine) -> Tensors:
    """The distiller's state dict in float32 on the host. All processes call it; the first one gets it."""
    utils = import_deepspeed().utils
    module = engine.module
    parameters = dict(module.named_parameters(remove_duplicate=False))
    weights = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        whole = tensor
        if engine.zero_stage and name in parameters:
            whole = utils.safe_get_full_fp32_param(parameters[name])
        if engine.is_first:
            weights[name] = whole.detach().to("cpu", copy=True).contiguous()
    return weights


def whole_optimizer_state(engine: Engine) -> tuple[Tensors, dict[str, Any]]:
    """What the optimizer remembers. All processes call it; the first one gets it.

    Returns:
        Tensors under ``parameter/name``; and plain numbers: ``parameters`` by the same names, and ``groups``,
        what the optimizer keeps of each group of parameters.
    """
    _link_pieces(engine)
    tensors: Tensors = {}
    numbers: dict[str, Any] = {}
    for name, parameter in engine.module.named_parameters():
        for key, value in _state_of(engine, parameter).items():
            number = plain(value)
            if number is None and engine.is_first:
                tensors[f"{name}/{key}"] = value.detach().to("cpu", copy=True).contiguous()
            elif number is not None:
                numbers[f"{name}/{key}"] = number
    groups = [
        {key: plain(value) for key, value in group.items() if key not in ("params", "lr")}
        for group in engine.optimizer.param_groups
    ]
    return tensors, {"parameters": numbers, "groups": groups}


def restore_optimizer_state(engine: Engine, tensors: Tensors, numbers: dict[str, Any]) -> None:
    """Give the optimizer back what :func:`whole_optimizer_state` took."""
    for group, saved in zip(engine.optimizer.param_groups, numbers["groups"], strict=True):
        group.update({key: restored(value) for key, value in saved.items()})
    if engine.zero_stage == 0:
        _restore_plain(engine, tensors, numbers["parameters"])
    else:
        _restore_pieces(engine, tensors, numbers["parameters"])


def _state_of(engine: Engine, parameter: nn.Parameter) -> dict[str, Any]:
    """One parameter's state; tensors of its shape are put together from their pieces."""
    if engine.zero_stage == 0:
        return dict(engine.optimizer.state.get(parameter, {}))
    get = import_deepspeed().utils.safe_get_full_optimizer_state
    piece = _piece_with(engine, parameter)
    return {
        key: get(parameter, key) if torch.is_tensor(value) and value.shape == piece.shape else value
        for key, value in engine.optimizer.state[piece].items()
    }


def _piece_with(engine: Engine, parameter: nn.Parameter) -> Tensor:
    """The flat tensor of this process that holds the parameter's group, or its own part of it."""
    zero: Any = engine.wrapped.optimizer
    if engine.zero_stage == 3:
        group, *_ = zero.grad_position[zero.get_param_id(parameter)]
        pieces = zero.fp32_partitioned_groups_flat
    else:
        groups = enumerate(zero.bit16_groups)
        group = next(number for number, members in groups if any(member is parameter for member in members))
        pieces = zero.single_partition_of_fp32_groups
    piece: Tensor = pieces[group]
    return piece


def _link_pieces(engine: Engine) -> None:
    """Tell each parameter which part of its group's state is its own.

    DeepSpeed does so after the first group's first step, when the other groups have no state yet.
    """
    if engine.zero_stage not in (1, 2):
        return
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    zero: Any = engine.wrapped.optimizer
    for members, piece in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        lazy_init_hp_params_optimizer_state(members, piece, engine.optimizer.state)


def _restore_plain(engine: Engine, tensors: Tensors, numbers: dict[str, Any]) -> None:
    parameters = dict(engine.module.named_parameters())
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        engine.optimizer.state[parameters[name]][key] = value.to(parameters[name].device)
    for path, value in numbers.items():
        name, _, key = path.rpartition("/")
        engine.optimizer.state[parameters[name]][key] = restored(value)


def _restore_pieces(engine: Engine, tensors: Tensors, numbers: dict[str, Any]) -> None:
    """First empty state for every piece, then each parameter's part of it.

    An optimizer has no state before its first step. So every piece (N / R,) gets zeros (N / R,) for each kind
    of tensor that was saved; :func:`_link_pieces` gives DeepSpeed which range of them is which parameter's;
    and ``put`` copies the part of a saved tensor, of the parameter's shape, that lies in this piece.
    """
    put = import_deepspeed().utils.safe_set_full_optimizer_state
    parameters = dict(engine.module.named_parameters())
    pieces = {name: _piece_with(engine, parameter) for name, parameter in parameters.items()}
    for path in tensors:
        name, _, key = path.rpartition("/")
        engine.optimizer.state[pieces[name]].setdefault(key, torch.zeros_like(pieces[name]))
    for path, value in numbers.items():  # one clock for the whole piece: the longest that ran
        name, _, key = path.rpartition("/")
        state = engine.optimizer.state[pieces[name]]
        state[key] = restored(max(value, plain(state.get(key, restored(value))), key=size))
    _link_pieces(engine)
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        put(parameters[name], value.to(parameters[name].device), key)
