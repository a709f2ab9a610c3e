import copy

import pytest
import torch

from leapcore import ImageInput, LayerFeatureProvider, LayerFeatures, LayerInfo
from leapcore.core.features import on_common_grid
from leapcore.core.layer_check import check_layers, idle_modules
from leapcore.core.norms import TARGET_NORMS, own
from leapcore.errors import PluginError


class Counting(LayerFeatureProvider):
    """Three layers that add one each and note that they ran."""

    def __init__(self):
        layers = [LayerInfo(f"layer{i}", 3, 1) for i in range(3)]
        super().__init__(layers, ImageInput((4, 4), (0.5,) * 3, (0.25,) * 3))
        self.ran = []

    def iter_layers(self, images):
        for index in range(3):
            images = images + 1
            self.ran.append(index)
            yield LayerFeatures.from_nchw(images)


def test_forward_stops_at_the_deepest_layer_asked_for():
    provider = Counting()
    shallow, first = provider(torch.zeros(2, 3, 4, 4), [1, 0])
    assert provider.ran == [0, 1]
    assert (shallow.tokens == 2).all()
    assert (first.tokens == 1).all()


def test_prepare_normalises_and_resizes():
    provider = Counting()
    assert torch.allclose(provider.prepare(torch.full((1, 3, 4, 4), 0.75)), torch.ones(1, 3, 4, 4))
    assert provider.prepare(torch.rand(1, 3, 8, 6)).shape == (1, 3, 4, 4)


def test_from_nchw_is_row_major():
    features = LayerFeatures.from_nchw(torch.arange(12.0).view(1, 2, 2, 3))
    assert features.grid == (2, 3)
    assert features.tokens[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert features.channels == 2


def test_pooled_is_the_class_token_or_else_the_mean():
    tokens, prefix = torch.rand(2, 4, 3), torch.rand(2, 5, 3)
    assert torch.equal(LayerFeatures(tokens, (2, 2), prefix).pooled, prefix[:, 0])
    assert torch.equal(LayerFeatures(tokens, (2, 2)).pooled, tokens.mean(1))


def test_resized_averages_down_and_interpolates_up():
    features = LayerFeatures(torch.arange(16.0).view(1, 16, 1), (4, 4), torch.ones(1, 1, 1))
    smaller = features.resized((2, 2))
    assert smaller.tokens.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert smaller.grid == (2, 2)
    assert torch.equal(smaller.prefix_tokens, features.prefix_tokens)
    assert features.resized((4, 4)) is features
    assert features.resized((6, 3)).tokens.shape == (1, 18, 1)


def test_common_grid_is_the_smaller_one():
    a, b = LayerFeatures(torch.rand(1, 16, 2), (4, 4)), LayerFeatures(torch.rand(1, 6, 2), (2, 3))
    left, right = on_common_grid(a, b)
    assert left.grid == right.grid == (2, 3)
    text = LayerFeatures(torch.rand(1, 7, 2))
    assert on_common_grid(text, text) == (text, text)


def test_features_without_a_grid_cannot_be_resized():
    with pytest.raises(ValueError, match="without a grid"):
        LayerFeatures(torch.rand(1, 7, 2)).resized((2, 2))


def test_targets_are_normalised_by_the_backbone_by_nothing_or_without_parameters():
    class Normed(Counting):
        def finalize(self, features, layer):
            return features.map(lambda tokens: tokens * 2) if layer == 2 else features

    provider, raw = Normed(), LayerFeatures(torch.randn(2, 4, 3), (2, 2))
    norms = {name: [norm(provider, raw, layer) for layer in (0, 2)] for name, norm in TARGET_NORMS.items()}
    norms["own"] = [own(provider, raw, layer) for layer in (0, 2)]
    assert all(features is raw for features in norms["raw"])
    assert norms["own"][0] is raw
    assert torch.equal(norms["own"][1].tokens, 2 * raw.tokens)
    for standard in (*norms["parameter-free"], norms["final"][0]):
        assert torch.allclose(standard.tokens.mean(-1), torch.zeros(2, 4), atol=1e-5)
        assert torch.allclose(standard.tokens.var(-1, correction=0), torch.ones(2, 4), atol=1e-3)
    assert torch.equal(norms["final"][1].tokens, 2 * raw.tokens)


def test_modules_that_the_last_layer_does_not_need_are_idle(vit):
    provider = vit()
    assert idle_modules(provider) == {}
    provider.model.spare = torch.nn.Linear(3, 5)
    assert idle_modules(provider) == {"spare": 3 * 5 + 5}


def test_what_a_backbone_does_wrong_is_named():
    class Listing(Counting):
        def iter_layers(self, images):
            return list(super().iter_layers(images))

    with pytest.raises(PluginError, match="iter_layers of Listing returns a list"):
        check_layers(Listing())
    strange = Counting()
    strange.layers = ("layer0",)
    with pytest.raises(PluginError, match="layers of Counting are no LayerInfo"):
        check_layers(strange)


def test_recomputing_blocks_changes_neither_features_nor_gradients(vit):
    torch.manual_seed(0)
    plain, images = vit(), torch.rand(2, 3, 28, 28)
    recomputing = copy.deepcopy(plain)
    recomputing.checkpoint_gradients()
    with torch.no_grad():
        assert torch.equal(plain(images, [3])[0].tokens, recomputing(images, [3])[0].tokens)
    for provider in (plain, recomputing):
        provider(images, [3])[0].pooled.square().sum().backward()
    pairs = zip(plain.parameters(), recomputing.parameters(), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in pairs if ours.grad is not None)
