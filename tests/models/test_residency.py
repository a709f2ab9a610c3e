import copy

import pytest
import torch
from torch import nn

from leapcore.models.build import build_backbone
from leapcore.models.residency import ResidentLayers, layer_bytes, matrices_to

META = torch.device("meta")  # stands in for a GPU: its tensors do not mix with the host's

FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 48, "num_heads": 2}),
    "convnext": ("convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}),
    "hybrid": ("coatnet_pico_rw_224", {}),
    "hierarchical": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 24, "depths": [1, 1, 2, 1], "window_size": 2},
    ),
}


@pytest.fixture(params=FAMILIES)
def provider(request):
    model, options = FAMILIES[request.param]
    provider = build_backbone(request.param, model=model, weights="none", image_size=64, options=options)
    return provider.eval().requires_grad_(False)


def _where(provider, layer):
    return {tensor.device.type for tensor in provider.block(layer).parameters()}


def test_only_the_kept_layers_are_on_the_device(provider):
    last = len(provider.layers) - 1
    resident = ResidentLayers(provider, META)
    assert all(_where(provider, layer) == {"cpu"} for layer in range(last + 1))
    resident.keep([0, 1])
    assert resident.layers == [0, 1]
    assert _where(provider, 0) == _where(provider, 1) == {"meta"}
    assert _where(provider, last) == {"cpu"}
    resident.keep([1])
    assert _where(provider, 0) == {"cpu"}


def test_a_layer_comes_when_it_is_needed_and_nothing_deeper(provider):
    resident, last = ResidentLayers(provider, META), len(provider.layers) - 1
    images = torch.empty(2, 3, 64, 64, device=META)
    assert provider.features(images, [1])[0].tokens.device == META
    assert resident.layers == [0, 1]
    provider(images, [last])
    assert resident.layers == list(range(last + 1))


def test_weights_come_home_unchanged(provider):
    before = copy.deepcopy(provider.state_dict())
    resident = ResidentLayers(provider, META)
    for layer in range(len(provider.layers)):
        resident.keep([layer])
    resident.keep([])
    inside = {key for key, tensor in provider.state_dict().items() if tensor.device.type == "cpu"}
    assert all(torch.equal(provider.state_dict()[key], before[key]) for key in inside)
    blocks = {f"model.{layer.name}." for layer in provider.layers}
    assert {key for key in before if key.startswith(tuple(blocks))} == inside


def test_weights_that_layers_share_stay_on_the_device():
    model, options = FAMILIES["vit"]
    provider = build_backbone("vit", model=model, weights="none", image_size=64, options=options).eval()
    provider.model.blocks[2].mlp = provider.model.blocks[1].mlp
    resident = ResidentLayers(provider.requires_grad_(False), META)
    resident.keep([])
    assert provider.model.blocks[1].mlp.fc1.weight.device == META
    assert provider.model.blocks[1].attn.qkv.weight.device.type == "cpu"


def test_on_the_host_everything_stays_where_it_is(provider):
    weights = list(provider.parameters())
    resident = ResidentLayers(provider, torch.device("cpu"))
    resident.keep([])
    assert all(a is b for a, b in zip(weights, provider.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_matrices_in_16_bits_change_no_bit_of_what_autocast_computes(provider, dtype):
    images, last = torch.rand(2, 3, 64, 64), len(provider.layers) - 1
    with torch.no_grad(), torch.autocast("cpu", dtype):
        before = provider(images, list(range(last + 1)))
        matrices_to(provider.model, dtype)
        after = provider(images, list(range(last + 1)))
    for a, b in zip(before, after, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.tensors, b.tensors, strict=True))
    kinds = {parameter.dtype for parameter in provider.parameters()}
    assert dtype in kinds
    assert all(m.weight.dtype == torch.float32 for m in provider.modules() if isinstance(m, nn.LayerNorm))


def test_16_bits_after_placing_come_to_the_device_too(provider):
    resident = ResidentLayers(provider, META)
    matrices_to(provider.model, torch.bfloat16)
    resident.keep([0])
    assert torch.bfloat16 in {p.dtype for p in provider.block(0).parameters() if p.device == META}


@pytest.mark.parametrize("narrow", [False, True])
def test_the_bytes_on_a_device_are_known_beforehand(vit, narrow):
    provider = vit()
    shared, layers = layer_bytes(provider, narrow=narrow)
    if narrow:
        matrices_to(provider.model, torch.bfloat16)
    total = sum(t.numel() * t.itemsize for t in [*provider.parameters(), *provider.buffers()])
    assert shared + sum(layers) == total
    if not narrow:
        ResidentLayers(provider, torch.device("meta")).keep([0, 1])
        here = [t for t in [*provider.parameters(), *provider.buffers()] if t.device.type == "meta"]
        assert shared + sum(layers[:2]) == sum(t.numel() * t.itemsize for t in here)
