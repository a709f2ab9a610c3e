"""check_backbone finds what is wrong with a backbone, and says what to do about it.

``Small`` keeps every rule; each class below it breaks one, and says which message that must give.
"""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from violations import Violations

from leapcore import ImageInput, LayerFeatureProvider, LayerFeatures, LayerInfo, load_weights
from leapcore.core.flops import count_layer_macs
from leapcore.errors import PluginError
from leapcore.testing import ContractError, check_backbone

RULES = (
    "layers", "grids", "early exit", "order", "eval", "gradients", "costs", "bfloat16", "meta", "compile",
    "state dict", "weights", "checkpointing",
)  # fmt: skip


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))
        self.blocks = nn.ModuleList([Block(8, 8, 1), Block(8, 12, 2), Block(12, 16, 2)])


class Small(LayerFeatureProvider):
    """A plain network; every method is a place to break something."""

    listed = (LayerInfo("blocks.0", 8, 2), LayerInfo("blocks.1", 12, 4), LayerInfo("blocks.2", 16, 8))

    def __init__(self, image_size=32):
        size = (image_size, image_size)
        super().__init__(self.listed, ImageInput(size, (0.5,) * 3, (0.25,) * 3))
        self.model = Net()

    @classmethod
    def build(cls, *, model, weights, image_size, options):
        provider = cls(image_size)
        load_weights(provider.model, weights)
        return provider

    def iter_layers(self, images):
        x = self.start(images)
        for block in self.model.blocks:
            x = self.run(block, x)
            yield self.seen(x)

    def start(self, images):
        return self.model.stem(images) + self.model.shift

    def run(self, block, x):
        return block(x)

    def seen(self, x):
        return LayerFeatures.from_nchw(x)


_FOUND = Violations()
VIOLATIONS, SUBTLE = _FOUND.named, _FOUND.subtle
breaks, subtle = _FOUND.breaks, _FOUND.subtly


def _other_last_block(make_block, layer):
    """A backbone whose last block is another module."""

    class Other(Small):
        listed = (*Small.listed[:2], layer)

        def __init__(self, image_size=32):
            super().__init__(image_size)
            self.model.blocks[2] = make_block()

    return Other


# --- layers -------------------------------------------------------------------------------------------


@breaks("layers", "missing a required argument: 'name'", r"build\(\*, model, weights, image_size, options\)")
class TakesOtherArguments(Small):
    @classmethod
    def build(cls, name):
        return cls()


@breaks("layers", "returns a Net", "Return a LayerFeatureProvider")
class ReturnsTheNetwork(Small):
    @classmethod
    def build(cls, **_):
        return cls().model


@breaks("layers", "has no layers", "One LayerInfo per block")
class ListsNoLayers(Small):
    listed = ()


@breaks("layers", "has 3 layers but yields 2", "Yield one LayerFeatures after each block")
class YieldsTooFew(Small):
    def iter_layers(self, images):
        for _, features in zip(range(2), super().iter_layers(images), strict=False):
            yield features


@breaks("layers", "has 2 layers but yields 3", "Yield one LayerFeatures after each block")
class ListsTooFew(Small):
    listed = Small.listed[:2]


@breaks("layers", r"layer 1 \('blocks.2'\) .* width 8, but its LayerInfo says 16", "out of order")
class ListsThemBackwards(Small):
    listed = Small.listed[::-1]


@breaks("layers", r"layer 3 \('blocks.2'\) .* width 16, but its LayerInfo says 32", "Correct its channels")
class SaysAWrongWidth(Small):
    listed = (*Small.listed[:2], LayerInfo("blocks.2", 32, 8))


@breaks("layers", "256 tokens on a grid of 4 x 4", r"\(rows, columns\)")
class SaysAWrongGrid(Small):
    def seen(self, x):
        return replace(super().seen(x), grid=(4, 4))


@breaks("layers", "yields a Tensor, not LayerFeatures", "Yield one LayerFeatures")
class YieldsMaps(Small):
    def seen(self, x):
        return x


@breaks("layers", r"tokens of shape \(1, 8, 16, 16\), not \(B, N, C\)", r"from_nchw")
class WrapsMaps(Small):
    def seen(self, x):
        return LayerFeatures(x, tuple(x.shape[2:]))


@breaks("layers", r"prefix tokens of shape \(1, 8\), not \(B, P, C\)", r"\(B, P, C\), or None")
class YieldsOnePrefixTokenWithoutItsAxis(Small):
    def seen(self, x):
        features = super().seen(x)
        return replace(features, prefix_tokens=features.tokens.mean(1))


@breaks("layers", r"'stage.2'\) of .* is named after no module", "path of its block")
class NamesNoModule(Small):
    listed = (*Small.listed[:2], LayerInfo("stage.2", 16, 8))


@breaks("layers", "is named after no module", "Keep the network in self.model")
class KeepsTheNetworkElsewhere(Small):
    def __init__(self, image_size=32):
        super().__init__(image_size)
        self.model, self.network = nn.Identity(), self.model

    def iter_layers(self, images):
        x = self.network.stem(images)
        for block in self.network.blocks:
            x = block(x)
            yield self.seen(x)


@breaks("layers", "two layers have one name", "path of its block")
class NamesTwoLayersAlike(Small):
    listed = (*Small.listed[:2], LayerInfo("blocks.1", 16, 8))


@breaks("layers", "ValueError: odd images", ".")
class Raises(Small):
    def start(self, images):
        raise ValueError("odd images")


@subtle("layers are compared for a batch of one only; then `pooled` is cut to what is there")
class LosesAllButTheFirstImage(Small):
    def seen(self, x):
        return super().seen(x[:1])


@subtle("nobody looks at the embedding")
class SaysAWrongEmbedding(Small):
    embedding = LayerInfo("stem", 24, 2)

    def embed(self, images):
        return LayerFeatures.from_nchw(self.model.stem(images))


@subtle("nobody looks at the embedding")
class ListsAnEmbeddingThatItDoesNotYield(Small):
    embedding = LayerInfo("stem", 8, 2)


# --- grids --------------------------------------------------------------------------------------------


@breaks("grids", "'blocks.2'\\) says stride 16, but 32 pixels became 4 cells", "input pixels per cell")
class SaysAWrongStride(Small):
    listed = (*Small.listed[:2], LayerInfo("blocks.2", 16, 16))


@breaks("grids", "a deeper layer has a smaller stride", "by depth")
class GrowsItsGrid(_other_last_block(lambda: nn.ConvTranspose2d(12, 16, 2, 2), LayerInfo("blocks.2", 16, 2))):
    pass


# --- early exit ---------------------------------------------------------------------------------------


@breaks("early exit", r"layer 1 \('blocks.0'\) was asked for, but .*'blocks.2'\) ran too", "inside the loop")
@breaks("costs", "'blocks.1'\\) costs no multiply-adds", ".")  # all were counted with the first
class ComputesAllFirst(Small):
    def iter_layers(self, images):
        yield from list(super().iter_layers(images))


@breaks("early exit", r"layer 1 \('blocks.1'\) was asked for, but that module was never called", ".")
class SwapsTwoNames(Small):
    listed = (LayerInfo("blocks.1", 8, 2), LayerInfo("blocks.0", 12, 4), Small.listed[2])


@breaks("early exit", r"layer 1 \('blocks.0'\) was asked for, but that module was never called", ".")
class CallsForward(Small):
    def run(self, block, x):
        return block.forward(x)


# --- order --------------------------------------------------------------------------------------------


@breaks(
    "order", r"layer 3 \('blocks.2'\) of \[2, 0\] is not what", "in the order asked for; leave it as it is"
)
class SortsWhatIsAskedFor(Small):
    def forward(self, images, layers):
        return super().forward(images, sorted(layers))


@breaks("order", "is not what", "leave it as it is")
class FinalizesNothing(Small):
    def finalize(self, features, layer):
        return features.map(lambda tokens: tokens * 2)

    def forward(self, images, layers):
        return self.features(images, layers)


@breaks("order", ".", "in the order asked for")
class ReturnsOnlyTheFirst(Small):
    def forward(self, images, layers):
        return super().forward(images, layers)[:1]


@subtle("prefix tokens are compared nowhere")
class LosesThePrefixTokens(Small):
    def seen(self, x):
        features = super().seen(x)
        return replace(features, prefix_tokens=features.tokens[:, :1])

    def forward(self, images, layers):
        return [replace(features, prefix_tokens=None) for features in super().forward(images, layers)]


@subtle("both sides of the comparison run to the last layer, and what comes after a layer overwrites it")
class AddsToALayerThatItHasYielded(Small):
    def __init__(self, image_size=32):
        super().__init__(image_size)
        sizes = ((8, 8, 1), (8, 12, 2), (12, 16, 2))
        self.model.blocks = nn.ModuleList(nn.Conv2d(i, o, 3, stride, 1) for i, o, stride in sizes)

    def run(self, block, x):
        x += 1  # as position embeddings are added
        return super().run(block, x)


# --- eval ---------------------------------------------------------------------------------------------


@breaks("eval", "asked for twice, differs from run to run", "no dropout")
class DropsOutInEvalMode(Small):
    others_follow = True  # nothing that is computed twice is the same

    def start(self, images):
        return F.dropout(super().start(images), 0.1)


@breaks("eval", "beside others and alone differ", "no image touches another")
class NormalisesByTheBatch(Small):
    def start(self, images):
        x = super().start(images)
        return x - x.mean(0)


# --- gradients ----------------------------------------------------------------------------------------


@breaks("gradients", r"no gradient reaches .* parameters\), which matter", "Detach nothing")
@breaks("checkpointing", "ran 1 times", ".")  # without a gradient nothing is recomputed
class DetachesBeforeEachBlock(Small):
    def run(self, block, x):
        return super().run(block, x.detach())


@breaks("gradients", "is cut off from the parameters before it", "no torch.no_grad")
@breaks("checkpointing", "does not require grad", ".")
class RunsWithoutGradients(Small):
    def run(self, block, x):
        with torch.no_grad():
            return super().run(block, x)


@subtle("only the last layer's gradient is looked at, though a match may pair any layers of the student")
class DetachesShallowLayers(Small):
    def iter_layers(self, images):
        for index, features in enumerate(super().iter_layers(images)):
            yield features if index == 2 else features.map(torch.detach)


@subtle("parameters of `model` itself, such as position embeddings, are passed over: it is never called")
class DetachesAParameterOfTheNetwork(Small):
    def start(self, images):
        return self.model.stem(images) + self.model.shift.detach()


# --- costs --------------------------------------------------------------------------------------------


@breaks("costs", "'blocks.2'\\) costs no multiply-adds", "block with weights, not a reshaping")
class CallsAPoolingALayer(_other_last_block(lambda: nn.MaxPool2d(2), LayerInfo("blocks.2", 12, 8))):
    pass


@breaks("costs", "'blocks.2'\\) costs no multiply-adds", "block with weights, not a reshaping")
@breaks("checkpointing", "ran 1 times", ".")  # nothing to recompute
class CallsAReshapingALayer(_other_last_block(lambda: nn.PixelUnshuffle(2), LayerInfo("blocks.2", 48, 8))):
    pass


# --- bfloat16 -----------------------------------------------------------------------------------------


@breaks("bfloat16", "not finite under bfloat16", "eps")
class DividesByADifference(Small):
    def run(self, block, x):
        x = super().run(block, x)
        return x / ((x + 1001) - (x + 1000))  # 1, but 0 where 1000 and 1001 are the same number


# --- meta ---------------------------------------------------------------------------------------------


@breaks("meta", "device", "input's device")
class KeepsTheFirstInputsPositions(Small):
    positions = None

    def start(self, images):
        x = super().start(images)
        if self.positions is None:
            self.positions = torch.ones(x.shape[-1], device=x.device)
        return x + self.positions


# --- compile ------------------------------------------------------------------------------------------


@breaks("compile", "compiled and not compiled differ", "torch.compile")
class ComputesSomethingElseCompiled(Small):
    def start(self, images):
        return super().start(images) * (2 if torch.compiler.is_compiling() else 1)


@subtle("not a number is not `>` anything, so it counts as close")
class ComputesNoNumbersCompiled(Small):
    def start(self, images):
        return super().start(images) * (float("nan") if torch.compiler.is_compiling() else 1)


@subtle("torch.compile goes on without compiling; fullgraph=True would tell")
class AsksForAValue(Small):
    def start(self, images):
        x = super().start(images)
        return x if x.is_meta or x.mean().item() > 0 else -x


# --- state dict ---------------------------------------------------------------------------------------


@breaks("state dict", "another one with its state dict differ", "parameters and buffers")
@breaks("weights", "built with its exported weights differ", "load_weights")
class KeepsAWeightInAnAttribute(Small):
    def __init__(self, image_size=32):
        super().__init__(image_size)
        self.scale = torch.rand(()).item() + 0.5

    def start(self, images):
        return super().start(images) * self.scale


@breaks("state dict", "another one with its state dict differ", "parameters and buffers")
@breaks("weights", "built with its exported weights differ", "load_weights")
class KeepsAWeightInABufferThatIsNotSaved(Small):
    def __init__(self, image_size=32):
        super().__init__(image_size)
        self.register_buffer("scale", torch.rand(8, 1, 1) + 0.5, persistent=False)

    def start(self, images):
        return super().start(images) * self.scale


# --- checkpointing ------------------------------------------------------------------------------------


@breaks("weights", "the one built with its exported weights differ", "build loads `weights`")
class IgnoresWeights(Small):
    @classmethod
    def build(cls, *, model, weights, image_size, options):
        return cls(image_size)


@breaks("layers", "finalized, yields features of width 4, but its LayerInfo says 8", "channels")
class FinalizesToAnotherWidth(Small):
    def finalize(self, features, layer):
        return features.map(lambda tokens: tokens[..., :4])


@breaks("gradients", "has other tokens in training", "Yield all tokens in both modes")
class DropsTokensInTraining(Small):
    def iter_layers(self, images):
        for features in super().iter_layers(images):
            keep = features.tokens.shape[1] // 2
            yield LayerFeatures(features.tokens[:, :keep]) if self.training else features


@breaks("checkpointing", r"the block of layer 1 \('blocks.0'\) ran 4 times", "Call each block as a module")
class CallsABlockTwice(Small):
    def run(self, block, x):
        x = super().run(block, x)
        return super().run(block, x) if block is self.model.blocks[0] else x


@breaks("early exit", "that module was never called", ".")
@breaks("checkpointing", r"the block of layer 1 \('blocks.0'\) ran 0 times", "Call each block as a module")
class CallsABlocksChildren(Small):
    def run(self, block, x):
        return F.relu(block.norm(block.conv(x)))


@breaks("checkpointing", r"the block of layer 1 \('blocks.0'\) ran 0 times", "Call each block as a module")
class CallsABlocksChildrenInTraining(Small):
    def run(self, block, x):
        return F.relu(block.norm(block.conv(x))) if self.training else block(x)


def _broken(factory):
    """What check_backbone says: for each broken rule what was seen, and the remedy."""
    with pytest.raises(ContractError) as caught:
        check_backbone(factory, 32)
    return dict(_entry(text) for text in re.split("^- ", str(caught.value), flags=re.M)[1:])


def _entry(text):
    rule, rest = text.rstrip().split(": ", 1)
    return rule, tuple(rest.rsplit("\n  ", 1))


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in VIOLATIONS])
def test_a_violation_is_named_with_what_was_seen_and_a_remedy(kind):
    messages, expected = _broken(kind.build), VIOLATIONS[kind]
    if not hasattr(kind, "others_follow"):
        assert set(messages) == set(expected)
    for rule, (seen, remedy) in expected.items():
        assert re.search(seen, messages[rule][0])
        assert re.search(remedy, messages[rule][1])


@pytest.mark.parametrize("kind", SUBTLE)
def test_a_subtle_violation_is_seen_too(kind):
    with pytest.raises(ContractError):
        check_backbone(kind.build, 32)


def test_a_factory_that_returns_the_same_backbone_twice_is_refused():
    only_one = Small()
    assert "same" in str(_broken(lambda *, model, weights, image_size, options: only_one))


def test_every_rule_has_a_violation_that_it_finds():
    assert {rule for rules in VIOLATIONS.values() for rule in rules} == set(RULES)


def test_a_correct_backbone_keeps_all_rules():
    report = check_backbone(Small.build, 32)
    assert tuple(result.rule for result in report.results) == RULES
    assert not report.failures
    assert all(result.seconds > 0 for result in report.results)


def test_the_factory_gets_what_a_spec_would_give_it():
    calls = []

    def build(**arguments):
        calls.append(arguments)
        return Small.build(**arguments)

    check_backbone(build, 32, model="tiny", weights="none", options={"depth": 3})
    assert calls[0] == {"model": "tiny", "weights": "none", "image_size": 32, "options": {"depth": 3}}


def test_the_error_names_the_subject_and_is_a_plugins():
    with pytest.raises(PluginError, match="tiny breaks 1 of"):
        check_backbone(YieldsMaps.build, 32, model="tiny")


@pytest.mark.parametrize("way", ["a tensor made on the CPU", "a tensor in an attribute", "a value"])
def test_what_fails_on_the_meta_device_alone_is_not_blamed_on_the_image_size(way):
    class Misplaced(Small):
        def __init__(self, image_size=32):
            super().__init__(image_size)
            self.shift = torch.randn(8, 1, 1)

        def start(self, images):
            x = super().start(images)
            if way == "a tensor made on the CPU":
                return x + torch.ones(8, 1, 1)
            return x + self.shift if way == "a tensor in an attribute" else x * x.mean().item()

    (message,) = {seen + remedy for seen, remedy in _broken(Misplaced.build).values()}
    assert "img_size" not in message
    assert "input's device" in message


class TextBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, x):
        q, k, v = self.to_qkv(self.norm(x)).unsqueeze(1).chunk(3, -1)
        x = x + F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.mlp(x)


class TextTower(LayerFeatureProvider):
    """Reads token ids instead of images."""

    def __init__(self):
        layers = [LayerInfo(f"blocks.{i}", 16, 1) for i in range(3)]
        super().__init__(layers, ImageInput((1, 1), (0.0,), (1.0,)))
        self.model = nn.Module()
        self.model.embedding = nn.Embedding(50, 16)
        self.model.blocks = nn.ModuleList(TextBlock(16) for _ in range(3))
        self.model.norm = nn.LayerNorm(16)

    @classmethod
    def build(cls, *, model, weights, image_size, options):
        provider = cls()
        load_weights(provider.model, weights)
        return provider

    def iter_layers(self, images):
        x = self.model.embedding(images)
        for block in self.model.blocks:
            x = block(x)
            yield LayerFeatures(x)

    def finalize(self, features, layer):
        return features.map(self.model.norm)

    def prepare(self, pixels):
        return pixels

    def example_input(self, batch_size=1):
        return torch.arange(7).repeat(batch_size, 1)


def test_a_text_tower_keeps_all_rules_too():
    assert not check_backbone(TextTower.build, 1).failures


def test_a_text_towers_layers_are_counted():
    per_block = 7 * 16 * (3 * 16 + 16) + 2 * 7 * 7 * 16 + 2 * 5 * 7 * 16  # linear, attention, norms
    assert count_layer_macs(TextTower()).steps == (per_block,) * 3


def _random_numbers():
    return random.getstate(), np.random.get_state()[1:3], torch.get_rng_state()


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    check_backbone(Small.build, 32)
    assert torch.equal(torch.rand(3), expected)


def test_global_random_numbers_are_left_alone_by_dropout_in_training():
    class DropsOut(Small):
        def __init__(self, image_size=32):
            with torch.random.fork_rng(devices=[]):
                super().__init__(image_size)

        def start(self, images):
            return F.dropout(super().start(images), 0.1, self.training)

    before = torch.get_rng_state()
    check_backbone(DropsOut.build, 32)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_does_not_depend_on_global_random_numbers():
    for seed in range(3):
        torch.manual_seed(seed)
        assert not check_backbone(Small.build, 32).failures


def _compiled_versions():
    code = LayerFeatureProvider.forward.__code__
    return len(torch._C._dynamo.eval_frame._debug_get_cache_entry_list(code))


def test_nothing_compiled_is_kept():
    check_backbone(Small.build, 32)
    assert _compiled_versions() == 0


def test_nothing_compiled_is_kept_of_a_backbone_that_fails():
    try:
        with pytest.raises(ContractError):
            check_backbone(ComputesSomethingElseCompiled.build, 32)
        assert _compiled_versions() == 0
    finally:
        torch.compiler.reset()


def test_modes_are_as_before():
    check_backbone(Small.build, 32)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert torch.get_default_device().type == "cpu"
