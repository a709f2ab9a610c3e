"""The rules of a backbone, one function each: a check raises where its rule is broken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from leapcore.core.counting import on_meta
from leapcore.core.features import LayerFeatures
from leapcore.core.flops import count_layer_macs
from leapcore.core.layer_check import check_layer, check_layers, layer_shapes
from leapcore.core.provider import LayerFeatureProvider
from leapcore.export.student import export_student
from leapcore.testing.report import Broken, Rule

IMAGES = 2


@dataclass
class BackboneTrial:
    """A backbone on trial.

    Attributes:
        build: Makes another one like it, with other random weights or those of a folder.
        provider: The backbone, in eval mode.
        images: Inputs of ``iter_layers``.
    """

    build: Callable[..., LayerFeatureProvider]
    provider: LayerFeatureProvider
    images: Tensor

    @property
    def last(self) -> int:
        """Index of the last layer."""
        return len(self.provider.layers) - 1

    def named(self, layer: int) -> str:
        """A layer as people are shown it."""
        return f"layer {layer + 1} ('{self.provider.layers[layer].name}')"


def _layers_are_as_described(trial: BackboneTrial) -> None:
    if not trial.provider.layers:
        raise Broken("it has no layers")
    check_layers(trial.provider)
    names = [layer.name for layer in trial.provider.layers]
    if len(set(names)) < len(names):
        raise Broken("two layers have one name", "Name each layer by the path of its block in `model`.")
    with torch.no_grad():
        for layer, features in enumerate(trial.provider.iter_layers(trial.images)):
            if len(features.tokens) != IMAGES:
                raise Broken(f"{trial.named(layer)} yields {len(features.tokens)} images of {IMAGES}")
            finalized = trial.provider.finalize(features, layer)
            check_layer(f"{trial.named(layer)}, finalized,", trial.provider.layers[layer], finalized)
        if trial.provider.embedding is not None:
            embedded = trial.provider.embed(trial.images)
            check_layer("the patch embedding", trial.provider.embedding, embedded)


@torch.no_grad()
def _grids_fit_strides(trial: BackboneTrial) -> None:
    size = trial.provider.image_input.size
    for layer, features in enumerate(trial.provider.iter_layers(trial.images)):
        if features.grid is None:
            continue
        stride = trial.provider.layers[layer].stride
        for side, cells in zip(size, features.grid, strict=True):
            if abs(side / stride - cells) >= 1:
                raise Broken(
                    f"{trial.named(layer)} says stride {stride}, but {side} pixels became {cells} cells"
                )
    strides = [layer.stride for layer in trial.provider.layers]
    if any(deeper < shallower for shallower, deeper in pairwise(strides)):
        raise Broken("a deeper layer has a smaller stride than a shallower one", "List layers by depth.")


@torch.no_grad()
def _nothing_deeper_runs(trial: BackboneTrial) -> None:
    ran: set[int] = set()
    for layer in range(trial.last + 1):
        trial.provider.block(layer).register_forward_hook(lambda *_, layer=layer: ran.add(layer))
    for target in sorted({0, 1, trial.last // 2, trial.last - 1} & set(range(trial.last + 1))):
        ran.clear()
        trial.provider(trial.images, [target])
        if target not in ran:
            raise Broken(
                f"{trial.named(target)} was asked for, but that module was never called",
                "Call blocks as modules, block(x), and name each layer after its own.",
            )
        if max(ran) > target:
            raise Broken(f"{trial.named(target)} was asked for, but {trial.named(max(ran))} ran too")


@torch.no_grad()
def _layers_come_as_asked(trial: BackboneTrial) -> None:
    expected = [
        _copied(trial.provider.finalize(features, layer))
        for layer, features in enumerate(trial.provider.iter_layers(trial.images))
    ]
    for layers in ([trial.last, 0], [0]):
        results = trial.provider(trial.images, layers)
        if len(results) != len(layers):
            raise Broken(f"{len(layers)} layers were asked for, {len(results)} came")
        for layer, features in zip(layers, results, strict=True):
            what = f"{trial.named(layer)} of {layers} is not what iter_layers and finalize give"
            _require_same(features, expected[layer], what)


@torch.no_grad()
def _eval_is_deterministic(trial: BackboneTrial) -> None:
    first, again = (trial.provider(trial.images, [trial.last])[0] for _ in range(2))
    _require_same(first, again, "the last layer, asked for twice, differs from run to run")
    alone = trial.provider(trial.images[:1], [trial.last])[0]
    for here, there in zip(alone.tensors, first.tensors, strict=True):
        _require_close(there[:1], here, "an image's features beside others and alone")


def _gradients_reach_every_parameter(trial: BackboneTrial) -> None:
    shapes = [features.tokens.shape for features in layer_shapes(trial.provider)]
    for layer, features in enumerate(trial.provider.train().iter_layers(trial.images)):
        if features.tokens.shape[1:] != shapes[layer][1:]:
            raise Broken(
                f"{trial.named(layer)} has other tokens in training", "Yield all tokens in both modes."
            )
        if not features.tokens.requires_grad:
            raise Broken(f"{trial.named(layer)} is cut off from the parameters before it")
    _some_loss(trial.provider, trial.images).backward()
    named = list(trial.provider.named_parameters())
    without = [(name, p) for name, p in named if p.requires_grad and p.grad is None]
    left = [name for name, parameter in without if _matters(trial, parameter)]
    if left:
        raise Broken(f"no gradient reaches {', '.join(left[:3])} ({len(left)} parameters), which matter")


def _deeper_costs_more(trial: BackboneTrial) -> None:
    for layer, macs in enumerate(count_layer_macs(trial.provider).steps):
        if macs <= 0:
            raise Broken(f"{trial.named(layer)} costs no multiply-adds on top of the layer before")


@torch.no_grad()
def _bfloat16_works(trial: BackboneTrial) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        results = trial.provider(trial.images, range(trial.last + 1))
    for layer, features in enumerate(results):
        if not all(tensor.isfinite().all() for tensor in features.tensors):
            raise Broken(f"{trial.named(layer)} is not finite under bfloat16 autocast")


@torch.no_grad()
def _meta_shapes_agree(trial: BackboneTrial) -> None:
    real = list(trial.provider.iter_layers(trial.images))
    meta = list(on_meta(trial.provider).iter_layers(trial.images.to("meta")))
    for layer, (here, there) in enumerate(zip(real, meta, strict=True)):
        ours, theirs = ([tuple(t.shape) for t in side.tensors] for side in (here, there))
        if ours != theirs or not there.tokens.is_meta:
            raise Broken(f"{trial.named(layer)} differs: {ours} against {theirs} without weights")


@torch.no_grad()
def _compiles(trial: BackboneTrial) -> None:
    expected = trial.provider(trial.images, [trial.last])[0]
    torch.compiler.reset()
    try:
        compiled = torch.compile(trial.provider, backend="aot_eager", fullgraph=True)
        got = compiled(trial.images, [trial.last])[0]
    finally:
        torch.compiler.reset()
    for ours, theirs in zip(got.tensors, expected.tensors, strict=True):
        _require_close(ours, theirs, "compiled and not compiled")


@torch.no_grad()
def _state_dict_is_all(trial: BackboneTrial) -> None:
    other = trial.build().eval()
    if other is trial.provider:
        raise Broken("the factory returns one and the same object", "Build a new network at every call.")
    other.load_state_dict(trial.provider.state_dict())
    expected = trial.provider(trial.images, [trial.last])[0]
    got = other(trial.images, [trial.last])[0]
    for ours, theirs in zip(got.tensors, expected.tensors, strict=True):
        _require_close(ours, theirs, "a backbone and another one with its state dict")


@torch.no_grad()
def _weights_are_loaded(trial: BackboneTrial) -> None:
    with TemporaryDirectory() as folder:
        export_student(trial.provider, Path(folder))
        loaded = trial.build(folder).eval()
    expected = trial.provider(trial.images, [trial.last])[0]
    got = loaded(trial.images, [trial.last])[0]
    for ours, theirs in zip(got.tensors, expected.tensors, strict=True):
        _require_close(ours, theirs, "a backbone and the one built with its exported weights")


def _checkpointing_changes_no_gradient(trial: BackboneTrial) -> None:
    plain = trial.provider.train()
    saving = copy.deepcopy(plain)
    calls = [0] * (trial.last + 1)
    for layer in range(trial.last + 1):
        _count_runs(saving.block(layer), calls, layer)
    saving.checkpoint_gradients()
    for provider in (plain, saving):
        torch.manual_seed(0)
        _some_loss(provider, trial.images).backward()
    for layer, count in enumerate(calls):
        if count != 2:
            raise Broken(f"the block of {trial.named(layer)} ran {count} times, not forward and once more")
    for (name, ours), theirs in zip(plain.named_buffers(), saving.buffers(), strict=True):
        _require_close(theirs.float(), ours.float(), f"{name}, updated in training, with and without")
    for (name, ours), theirs in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if ours.grad is not None and theirs.grad is not None:
            _require_close(theirs.grad, ours.grad, f"the gradient of {name} with and without")


def _count_runs(block: Any, calls: list[int], layer: int) -> None:
    """Count inside of what is recomputed; a hook would only see the call from outside."""
    forward = block.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[layer] += 1
        return forward(*args, **kwargs)

    block.forward = counted


def _some_loss(provider: LayerFeatureProvider, images: Tensor) -> Tensor:
    features = provider(images, [len(provider.layers) - 1])[0]
    loss: Tensor = features.tokens.square().mean() + features.pooled.square().mean()
    return loss


def _require_same(got: LayerFeatures, expected: LayerFeatures, what: str) -> None:
    same = len(got.tensors) == len(expected.tensors) and got.grid == expected.grid
    if not (same and all(map(torch.equal, got.tensors, expected.tensors))):
        raise Broken(what)


def _require_close(got: Tensor, expected: Tensor, what: str) -> None:
    scale = expected.abs().max().clamp(min=1e-6)
    if got.shape != expected.shape or not (got - expected).abs().max() <= 1e-3 * scale:  # NaN is not close
        raise Broken(f"{what} differ")


def _copied(features: LayerFeatures) -> LayerFeatures:
    return features.map(Tensor.clone)


@torch.no_grad()
def _matters(trial: BackboneTrial, parameter: Tensor) -> bool:
    """Whether the last layer depends on a parameter."""
    provider, before = trial.provider.eval(), parameter.clone()
    first = provider(trial.images, [trial.last])[0]
    parameter.add_(torch.randn_like(parameter))
    second = provider(trial.images, [trial.last])[0]
    parameter.copy_(before)
    return not all(map(torch.equal, first.tensors, second.tensors))


RULES = (
    Rule("layers", "One LayerInfo per block, one LayerFeatures for each.", _layers_are_as_described),
    Rule("grids", "stride is the number of input pixels per cell, along one side.", _grids_fit_strides),
    Rule("early exit", "Yield from inside the loop, right after each block.", _nothing_deeper_runs),
    Rule("order", "forward returns layers in the order asked for; leave it as it is.", _layers_come_as_asked),
    Rule("eval", "In eval mode there is no dropout, and no image touches another.", _eval_is_deterministic),
    Rule("gradients", "Detach nothing, and use no torch.no_grad.", _gradients_reach_every_parameter),
    Rule("costs", "A layer is a block with weights, not a reshaping.", _deeper_costs_more),
    Rule("bfloat16", "Do not fix dtypes by hand, and keep norms' eps above 1e-7.", _bfloat16_works),
    Rule("meta", "New tensors belong on the input's device; branch on no values.", _meta_shapes_agree),
    Rule("compile", "Avoid what torch.compile cannot trace: .item(), data-dependent branches.", _compiles),
    Rule("state dict", "Keep weights in parameters and buffers of submodules.", _state_dict_is_all),
    Rule("weights", "build loads `weights`: create_timm_model and load_weights do.", _weights_are_loaded),
    Rule("checkpointing", "Call each block as a module: block(x), once.", _checkpointing_changes_no_gradient),
)  # fmt: skip
