"""Memory of a frozen backbone on a device: 16-bit matrices where results stay the same, layers on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leapcore.core.layer_check import uncalled_modules
from leapcore.core.provider import LayerFeatureProvider


def matrices_to(network: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of linear and convolutional layers in 16 bits.

    Under autocast these layers compute with their weights in that type anyway: the results are the same bit
    for bit, in half the memory, and no step has to cast them.

    Args:
        network: A frozen one, which from now on runs under autocast only.
        dtype: The autocast's type.
    """
    for module in network.modules():
        # Subclasses may do more with their weights than these layers do.
        if type(module) in (nn.Linear, nn.Conv2d):
            module.to(dtype)


class _Slot(NamedTuple):
    """Where a module keeps a tensor, and that tensor in the host's memory."""

    tensors: dict[str, Any]
    name: str
    on_host: Tensor


class ResidentLayers:
    """Keeps some of a frozen backbone's layers in a device's memory, and the others on the host.

    A layer is loaded when its block is called, whoever calls it. :meth:`keep` says which layers stay, and
    loads those of them that are missing while the device is busy.

    Args:
        provider: A frozen backbone on the host; what belongs to no single layer goes to the device.
        device: Where it computes. On the host itself all layers stay.
    """

    def __init__(self, provider: LayerFeatureProvider, device: torch.device) -> None:
        self._device = device
        self._slots = _slots_by_layer(provider) if device.type != "cpu" else {}
        self._on_device: set[int] = set()
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None
        kept = {id(slot.on_host) for slots in self._slots.values() for slot in slots}
        for slot in _slots(provider.modules()):
            if id(slot.on_host) not in kept:
                slot.tensors[slot.name] = _like(slot.on_host, slot.on_host.to(device))
        for layer in self._slots:
            provider.block(layer).register_forward_pre_hook(partial(self._load_for, layer))

    @property
    def layers(self) -> list[int]:
        """The layers whose weights are on the device, of those that can be on the host."""
        return sorted(self._on_device)

    def keep(self, layers: Iterable[int]) -> None:
        """Have these layers on the device, and no others."""
        kept = self._slots.keys() & set(layers)
        for layer in self._on_device - kept:
            for slot in self._slots[layer]:
                slot.tensors[slot.name] = slot.on_host
        self._on_device &= kept
        for layer in sorted(kept - self._on_device):
            self._load(layer)

    def _load_for(self, layer: int, *_: Any) -> None:
        """Before a block runs."""
        if layer not in self._on_device:
            self._load(layer)

    def _load(self, layer: int) -> None:
        """Copy a layer to the device on a stream of its own, while the device goes on computing."""
        with self._copy_stream():
            for slot in self._slots[layer]:
                copy = slot.on_host.to(self._device, non_blocking=True)
                slot.tensors[slot.name] = _like(slot.on_host, copy)
        if self._copying is not None:
            main = torch.cuda.current_stream(self._device)
            main.wait_stream(self._copying)
            for slot in self._slots[layer]:
                slot.tensors[slot.name].record_stream(main)
        self._on_device.add(layer)

    def _copy_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._copying is None else torch.cuda.stream(self._copying)


def _slots(modules: Iterable[nn.Module]) -> Iterator[_Slot]:
    for module in modules:
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    yield _Slot(tensors, name, tensor)


def _slots_by_layer(provider: LayerFeatureProvider) -> dict[int, list[_Slot]]:
    """What belongs to one block alone; blocks that are never called as such could not fetch theirs."""
    layers = range(len(provider.layers))
    uncalled = set(uncalled_modules(provider).values())
    blocks = {layer: list(_slots(provider.block(layer).modules())) for layer in layers}
    inside = {module for layer in layers for module in provider.block(layer).modules()}
    owners: dict[int, set[int]] = {}
    for layer, slots in blocks.items():
        for slot in slots:
            owners.setdefault(id(slot.on_host), set()).add(layer)
    for slot in _slots(module for module in provider.modules() if module not in inside):
        owners.setdefault(id(slot.on_host), set()).add(-1)
    return {
        layer: [slot for slot in slots if owners[id(slot.on_host)] == {layer}]
        for layer, slots in blocks.items()
        if provider.block(layer) not in uncalled
    }


def layer_bytes(provider: LayerFeatureProvider, *, narrow: bool) -> tuple[int, list[int]]:
    """Bytes of a backbone's tensors that stay on a device, and of those that come with each layer.

    Args:
        provider: A frozen backbone, in float32.
        narrow: Whether its matrices will be kept in 16 bits (:func:`matrices_to`).
    """
    matrices = [module for module in provider.modules() if type(module) in (nn.Linear, nn.Conv2d)]
    halved = {id(p) for module in matrices for p in module.parameters()} if narrow else set[int]()

    def size(slots: Iterable[_Slot]) -> int:
        each = {id(t): t.numel() * t.itemsize // (1 + (id(t) in halved)) for _, _, t in slots}
        return sum(each.values())

    by_layer = _slots_by_layer(provider)
    layers = [size(by_layer.get(layer, [])) for layer in range(len(provider.layers))]
    return size(_slots(provider.modules())) - sum(layers), layers


def _like(old: Tensor, new: Tensor) -> Tensor:
    """A parameter where the old one was."""
    moved = new is not old and isinstance(old, nn.Parameter)
    return nn.Parameter(new, requires_grad=False) if moved else new
