from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leapcore import FlopsLedger, LayerFeatures, count_macs, count_prefix_macs
from leapcore.core.flops import LayerMacs, count_layer_macs
from leapcore.errors import CountingError
from leapcore.plugins.loader import installed_plugins


def _on_meta(model, **options):
    factory = installed_plugins().get("backbones", "vit")
    with torch.device("meta"):
        return factory(model=model, weights="none", image_size=224, options=options)


def _analytic_prefix(layer, *, width, hidden_macs, tokens, patches, patch=14):
    """MACs of patch embedding, blocks and final norm, written down by hand (norms: 5 per value)."""
    embedding = patches * width * 3 * patch**2
    products = tokens * width * (3 * width + width) + 2 * tokens**2 * width
    norms = 2 * 5 * tokens * width
    return embedding + (layer + 1) * (products + tokens * hidden_macs + norms) + 5 * tokens * width


# ViT-g/14 has SwiGLU blocks: hidden 4096 comes from 2 x 4096 values.
SIZES = {
    "vit_small_patch14_dinov2": {"width": 384, "hidden_macs": 8 * 384**2},
    "vit_giant_patch14_dinov2": {"width": 1536, "hidden_macs": 1536 * 8192 + 4096 * 1536},
}


@pytest.mark.parametrize("model", SIZES)
def test_every_prefix_is_within_one_percent_of_the_formula(model):
    prefixes = count_layer_macs(_on_meta(model), (3, 224, 224)).prefixes
    for layer, counted in enumerate(prefixes):
        expected = _analytic_prefix(layer, **SIZES[model], tokens=257, patches=256)
        assert counted == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("model", "gmacs"), [("vit_small_patch14_dinov2", 6.136), ("vit_giant_patch14_dinov2", 299.55)]
)
def test_totals_and_additivity(model, gmacs):
    provider = _on_meta(model)
    prefixes = count_layer_macs(provider, (3, 224, 224)).prefixes
    assert prefixes[-1] / 1e9 == pytest.approx(gmacs, abs=0.005)
    steps = {b - a for a, b in pairwise(prefixes)}
    assert len(steps) == 1, "every block of a plain ViT costs the same"
    assert steps.pop() > 0
    assert count_prefix_macs(provider, 3, (3, 224, 224)) == prefixes[3]


@pytest.mark.parametrize(
    ("model", "layer"),
    [("vit_small_patch14_dinov2", 0), ("vit_small_patch14_dinov2", 11), ("vit_giant_patch14_dinov2", 20)],
)
def test_torch_counts_the_same_operators(model, layer):
    """torch's counter sees what really runs; attention unfused, since it misses the fused one on the CPU."""
    from timm.layers import set_fused_attn

    set_fused_attn(False)
    try:
        provider = _on_meta(model)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            provider(torch.empty(1, 3, 224, 224, device="meta"), [layer])
    finally:
        set_fused_attn(True)
    counted = count_prefix_macs(_on_meta(model), layer, (3, 224, 224))
    assert counted == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def test_a_pass_over_several_layers_costs_the_deepest_and_each_ones_norm():
    macs = LayerMacs(steps=(7, 5, 5), ends=(1, 1, 2))
    assert macs.prefixes == [8, 13, 19]
    assert macs.until(0, 2) == 7 + 5 + 5 + 1 + 2
    assert macs.until(2, 0, 0) == macs.until(0, 2)
    assert macs.whole == macs.until(2) == 19


def test_counting_leaves_the_model_alone_and_needs_no_weights(vit):
    provider = vit()
    before = {name: tensor.clone() for name, tensor in provider.state_dict().items()}
    count_layer_macs(provider, (3, 28, 28))
    after = provider.state_dict()
    assert all(after[name].device.type == "cpu" and torch.equal(after[name], before[name]) for name in before)
    assert not provider.training


def test_convolutions_of_every_kind_are_counted():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
    )
    expected = 32 * 32 * 8 * 27 + 16 * 16 * 8 * 2 * 9 + 16 * 16 * 8 * 4 * 4
    assert count_macs(module, torch.empty(1, 3, 32, 32)) == expected
    assert count_macs(nn.Conv1d(4, 6, 3), torch.empty(1, 4, 10)) == 8 * 6 * 4 * 3


def test_an_operator_whose_cost_is_unknown_is_refused_by_name():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.baddbmm(x, x, x)

    with pytest.raises(CountingError, match="aten::baddbmm"):
        count_macs(Odd(), torch.empty(2, 4, 4))


def test_ledger_adds_up_against_the_fixed_last_layer():
    ledger = FlopsLedger(teacher_macs=40, student_macs=5)
    assert ledger.saved == 0
    ledger.record_calibration(4, teacher_macs=40, student_macs=3 * 5, alignment_macs=7)
    ledger.record_step(4, teacher_macs=10, student_macs=4, alignment_macs=3)
    ledger.record_step(4, teacher_macs=40)
    assert ledger.flops_by_part() == {
        "teacher": 2 * (10 + 40) * 4,
        "student": 2 * 3 * (4 + 5) * 4,
        "alignment": 2 * 3,
        "calibration": 2 * ((40 + 3 * 5) * 4 + 7),
    }
    assert ledger.spent == sum(ledger.flops_by_part().values())
    assert ledger.baseline == 2 * 2 * (40 + 15) * 4
    assert ledger.saved == pytest.approx(1 - ledger.spent / ledger.baseline)
    again = FlopsLedger(40, student_macs=5)
    again.load_state_dict(ledger.state_dict())
    assert again == ledger


def test_fixed_last_layer_saves_exactly_nothing():
    ledger = FlopsLedger(20, student_macs=5)
    ledger.record_step(64, teacher_macs=20)
    assert ledger.saved == 0


def test_text_like_layers_without_a_grid_can_be_counted(vit):
    provider = vit()

    class Text(type(provider)):
        def _split(self, x, grid):
            return LayerFeatures(x)

    provider.__class__ = Text
    assert count_layer_macs(provider, (3, 28, 28)).prefixes == count_layer_macs(vit(), (3, 28, 28)).prefixes


def test_layers_that_are_computed_together_are_counted_depth_by_depth(vit):
    """As of models that cannot be paused: their providers override ``features``."""
    provider = vit()

    class Together(type(provider)):
        def features(self, images, layers):
            return super().features(images, layers)

    provider.__class__ = Together
    assert count_layer_macs(provider) == count_layer_macs(vit())
