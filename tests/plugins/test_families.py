"""The bundled families keep the contract, and agree with timm about what a layer, a stage and a model are."""

import itertools

import pytest
import torch

from leapcore import LayerFeatures, import_timm
from leapcore.core.flops import count_layer_macs
from leapcore.core.layer_check import check_layers
from leapcore.errors import LeapcoreError, PluginError
from leapcore.plugins.loader import installed_plugins
from leapcore.testing import check_backbone
from leapcore.testing.backbone_rules import RULES

FAMILIES = ("vit", "hierarchical", "convnext", "hybrid", "timm")

# Where `pooled` is on purpose not what timm's head sees.
POOLED_OTHERWISE = {
    "vit_small_patch16_dinov3": "timm averages; DINOv3's own convention is the class token",
    "deit_tiny_distilled_patch16_224": "timm averages the class and the distillation token",
    "vit_base_patch16_siglip_224": "attention pooling belongs to the head",
    "vit_pe_core_tiny_patch16_384": "attention pooling belongs to the head",
    "maxvit_tiny_tf_224": "the head has a hidden layer, which is not part of a feature",
}
# Full-size models.
LAYERS = {
    "convnext_tiny": ("convnext", 224, 3 + 3 + 9 + 3),
    "resnet50": ("convnext", 224, 3 + 4 + 6 + 3),
    "swin_tiny_patch4_window7_224": ("hierarchical", 224, 2 + 2 + 6 + 2),
    "hiera_tiny_224": ("hierarchical", 224, 1 + 2 + 7 + 2),
    "vit_base_r50_s16_224": ("hybrid", 224, 3 + 4 + 9 + 12),
}


def _family(name):
    return installed_plugins().get("backbones", name)


# Near relatives of others, to save minutes; benchmarks/backbone_table.py checks the contract with every sample.
SIBLINGS = {
    "beitv2_base_patch16_224",
    "deit3_small_patch16_224",
    "edgenext_xx_small",
    "fastvit_sa12",
    "levit_conv_128s",
    "mobilevitv2_050",
    "regnetx_002",
    "resnet18",
    "vit_base_r50_s16_224",
}
# One of each family; compiling takes longer than all other rules together, and the table does it with every sample.
COMPILED = {
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "convnext_tiny",
    "coatnet_0_rw_224",
    "mobilenetv3_small_050",
}


def _samples(*families):
    """Samples of these families, as parameters called by their model's name."""
    samples = [(name, sample) for name in families for sample in _family(name).samples]
    return [
        pytest.param(name, sample, id=sample.model)
        for name, sample in samples
        if sample.model not in SIBLINGS
    ]


def _built(family, sample, **options):
    """A backbone in eval mode whose norms and biases are no longer ones and zeros."""
    torch.manual_seed(0)
    provider = _family(family)(
        model=sample.model,
        weights="none",
        image_size=sample.image_size,
        options={**sample.options, **options},
    ).eval()
    with torch.no_grad():
        for parameter in provider.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return provider


def _on_meta(family, model, image_size=224, **options):
    with torch.device("meta"):
        return _family(family)(model=model, weights="none", image_size=image_size, options=options)


def _images(provider):
    return torch.randn(2, 3, *provider.image_input.size)


@pytest.mark.parametrize(("family", "sample"), _samples(*FAMILIES))
def test_the_contract_is_kept(family, sample, monkeypatch):
    if sample.model not in COMPILED:
        monkeypatch.setattr("leapcore.testing.backbone.RULES", [r for r in RULES if r.name != "compile"])
    check_backbone(_family(family), sample.image_size, model=sample.model, options=sample.options)


@torch.no_grad()
@pytest.mark.parametrize(("family", "sample"), _samples(*FAMILIES))
def test_a_layer_is_the_same_alone_and_with_others(family, sample):
    provider = _built(family, sample)
    images = _images(provider)
    untouched, layers = images.clone(), range(len(provider.layers))
    for layer, features in zip(layers, provider(images, layers), strict=True):
        alone = provider(images, [layer])[0]
        assert torch.equal(alone.tokens, features.tokens)
        assert torch.equal(alone.pooled, features.pooled)
        assert alone.grid == features.grid
    assert torch.equal(images, untouched)


@torch.no_grad()
@pytest.mark.parametrize(("family", "sample"), _samples("vit", "hierarchical", "convnext", "hybrid"))
def test_the_last_layer_pooled_is_what_timms_head_sees(family, sample):
    provider = _built(family, sample)
    images, model = _images(provider), provider.model
    ours = provider(images, [len(provider.layers) - 1])[0].pooled
    theirs = model.forward_head(model.forward_features(images), pre_logits=True)
    agrees = ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert agrees != (sample.model in POOLED_OTHERWISE)


@torch.no_grad()
@pytest.mark.parametrize(("family", "sample"), _samples("hierarchical", "convnext", "hybrid"))
def test_stages_end_as_timms_do(family, sample):
    provider = _built(family, sample)
    images, model = _images(provider), provider.model
    ours = list(provider.iter_layers(images))
    theirs = model.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
    compared = 0
    for stage, feature_map in zip(_stages(model), theirs, strict=True):
        inside = [i for i, layer in enumerate(provider.layers) if f"{layer.name}.".startswith(f"{stage}.")]
        if stage == "final_conv" and not inside:  # nothing there: the stage before it
            inside = [len(ours) - 1]
        if not inside:
            assert stage in ("stem", "act1")  # no layer
            continue
        features = ours[inside[-1]]
        if sample.model.startswith("pvt_v2"):  # timm's are normalised
            features = features.map(model.get_submodule(stage).norm)
        expected = LayerFeatures.from_nchw(feature_map)
        assert features.grid == expected.grid
        assert torch.equal(features.tokens, expected.tokens)
        compared += 1
    assert compared >= 2


def _stages(model):
    infos = getattr(model.feature_info, "info", model.feature_info)
    return [info["module"] for info in infos]


@pytest.mark.parametrize("model", LAYERS)
def test_every_block_of_a_full_size_model_is_a_layer(model):
    family, image_size, layers = LAYERS[model]
    provider = _on_meta(family, model, image_size)
    check_layers(provider)
    assert len(provider.layers) == layers
    assert all(provider.block(layer) is not None for layer in range(layers))


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "sample"),
    [each for each in _samples(*FAMILIES) if each.id != "efficientformer_l1"],  # made for squares only
)
def test_images_need_not_be_square(family, sample):
    height, width = sample.image_size, 2 * sample.image_size
    provider = _built(family, sample, img_size=[height, width])
    assert provider.image_input.size == (height, width)
    check_layers(provider)
    image = torch.randn(1, 3, *provider.image_input.size)
    other = image.clone()
    other[..., : height // 4, -height // 4 :] += 1
    pairs = zip(provider.iter_layers(image), provider.iter_layers(other), strict=True)
    for index, (layer, (features, changed)) in enumerate(zip(provider.layers, pairs, strict=True)):
        rows, columns = height // layer.stride, width // layer.stride
        assert features.grid == (rows, columns)
        assert features.tokens.shape == (1, rows * columns, layer.channels)
        if index == 0:
            most = (changed.tokens - features.tokens).norm(dim=-1).argmax().item()
            assert most // columns < rows / 2, "the change is at the top"
            assert most % columns >= columns / 2, "the change is on the right"


@pytest.mark.parametrize(("size", "expected"), [(96, (96, 96)), ([64, 96], (64, 96))])
def test_a_cnn_takes_an_image_size_too(size, expected):
    provider = _family("convnext")(
        model="resnet18", weights="none", image_size=64, options={"img_size": size}
    )
    assert provider.image_input.size == expected
    assert provider.example_input(2).shape == (2, 3, *expected)
    assert provider.prepare(torch.rand(1, 3, 50, 70)).shape[-2:] == expected


@pytest.mark.parametrize(("family", "sample"), _samples("vit", "hierarchical", "convnext", "hybrid"))
def test_a_family_lists_its_models(family, sample):
    assert sample.model in _family(family).models()


def test_no_model_is_listed_twice():
    for one, other in itertools.combinations(FAMILIES, 2):
        assert not set(_family(one).models()) & set(_family(other).models())


def test_the_generic_family_refuses_models_that_cannot_stop_early(monkeypatch):
    import_timm()
    from timm.models.mobilenetv3 import MobileNetV3

    whole = MobileNetV3.forward_intermediates
    monkeypatch.setattr(
        MobileNetV3,
        "forward_intermediates",
        lambda self, x, **options: whole(self, x, **{**options, "stop_early": False}),
    )
    with pytest.raises(
        LeapcoreError, match=r"^mobilenetv3_small_050 runs all its layers .*\nTake another model"
    ):
        _on_meta("timm", "mobilenetv3_small_050")


@pytest.mark.parametrize(("model", "layers"), [("crossvit_9_240", 3), ("coat_tiny", 2), ("vgg11", 5)])
def test_the_generic_family_leaves_out_layers_that_cost_nothing_more(model, layers):
    """Branches that run side by side, and a pooling."""
    provider = _on_meta("timm", model, 240 if "240" in model else 224)
    assert len(provider.layers) == layers
    assert all(macs > 0 for macs in count_layer_macs(provider).steps)


@pytest.mark.parametrize("model", ["mvitv2_tiny", "twins_svt_small"])
def test_the_generic_family_names_modules_that_exist(model):
    provider = _on_meta("timm", model)
    for layer in range(len(provider.layers)):
        provider.block(layer)


@pytest.mark.parametrize(
    ("family", "model", "message"),
    [
        ("convnext", "vit_tiny_patch16_224", r"is a VisionTransformer, which .* 'convnext' does not take"),
        ("hierarchical", "resnet18", r"is a ResNet, which .* 'hierarchical' does not take"),
        ("vit", "swin_tiny_patch4_window7_224", r"is a SwinTransformer, which .* 'vit' does not take"),
        ("hybrid", "convnext_tiny", r"is a ConvNeXt, which .* 'hybrid' does not take"),
    ],
)
def test_a_model_of_another_family_is_refused(family, model, message):
    with pytest.raises(LeapcoreError, match=rf"^{model} {message}\n`leapcore backbones"):
        _on_meta(family, model)


@pytest.mark.parametrize(
    ("family", "model", "remedy"),
    [("vit", "vit_base_r50_s16_224", "hybrid"), ("hybrid", "vit_tiny_patch16_224", "vit")],
)
def test_vits_with_and_without_a_cnn_are_sent_to_each_others_family(family, model, remedy):
    with pytest.raises(LeapcoreError, match=rf"^{model} is a .*\n.*backbone: {remedy}"):
        _on_meta(family, model)


def test_a_model_that_cannot_run_at_its_image_size_is_named_with_what_to_do():
    provider = _on_meta("hybrid", "efficientformer_l1", 64)
    with pytest.raises(PluginError, match=r"cannot run on images of 64 x 64 pixels: (.|\n)*img_size"):
        check_layers(provider)


@pytest.mark.parametrize(
    ("family", "model", "image_size", "gmacs"),
    [
        ("vit", "vit_base_patch16_clip_224", 224, 17.58),
        ("hierarchical", "swin_tiny_patch4_window7_224", 224, 4.508),
        ("convnext", "convnext_tiny", 224, 4.470),
        ("hybrid", "coatnet_0_rw_224", 224, 4.431),
        ("hybrid", "maxvit_tiny_tf_224", 224, 5.598),
        ("hybrid", "efficientformer_l1", 224, 1.301),
        ("hybrid", "fastvit_t8", 256, 0.704),
    ],
)
def test_the_last_prefix_is_what_the_whole_model_costs(family, model, image_size, gmacs):
    """Totals that were measured apart from this code, with fvcore and a handle for fused attention."""
    provider = _on_meta(family, model, image_size)
    assert count_layer_macs(provider).whole / 1e9 == pytest.approx(gmacs, abs=0.005)
