"""The ViT family, reached through its entry point as a spec does."""

import pytest
import torch

from leapcore.errors import LeapcoreError
from leapcore.plugins.loader import installed_plugins

# One of each kind, made small: registers, register tokens without class token, distillation token,
# pre-norm (CLIP), no class token and attention pooling (SigLIP), layer scale (DINOv2).
KINDS = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_dinov2": {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_medium_patch16_reg4_gap_256": {},
    "deit_tiny_distilled_patch16_224": {},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_siglip_224": {},
}


@pytest.fixture(params=KINDS)
def provider(request, vit):
    torch.manual_seed(0)
    return vit(model=request.param)


def test_tokens_equal_timms_forward_intermediates_bit_for_bit(provider):
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        ours = provider(images, range(4))
        theirs = provider.model.forward_intermediates(
            images, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        if not isinstance(provider.model.fc_norm, torch.nn.Identity):  # timm's has the mean alone normalised
            ours = provider.features(images, range(4))
    for layer in range(4):
        with_prefix = isinstance(theirs[layer], tuple)
        tokens, prefix = theirs[layer] if with_prefix else (theirs[layer], None)
        assert torch.equal(ours[layer].tokens, tokens)
        assert ours[layer].grid == (4, 4)
        if provider.model.has_class_token:
            assert torch.equal(ours[layer].prefix_tokens, prefix)
        elif isinstance(provider.model.fc_norm, torch.nn.Identity):
            assert ours[layer].prefix_tokens is None


@pytest.mark.parametrize("target", range(4))
def test_no_block_deeper_than_the_target_ever_runs(vit, target):
    provider = vit()
    ran = []
    for index, block in enumerate(provider.model.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    provider(torch.randn(1, 3, 28, 28), [target])
    assert ran == list(range(target + 1))


def test_layers_say_what_comes_out(provider):
    assert [layer.name for layer in provider.layers] == [f"blocks.{i}" for i in range(4)]
    features = provider(torch.randn(1, 3, 28, 28), [0])[0]
    assert features.channels == provider.layers[0].channels
    assert 28 // provider.layers[0].stride == features.grid[0]


def test_non_square_images(vit):
    provider = vit(img_size=(28, 42))
    features = provider(torch.randn(1, 3, 28, 42), [1])[0]
    assert features.grid == (4, 6)
    assert features.tokens.shape[1] == 24


def test_a_size_the_patch_does_not_divide_is_refused(vit):
    with pytest.raises(
        LeapcoreError, match=r"image size 30 x 30 cannot be cut into .* patches of 7 x 7.*\n.*28 or 35"
    ):
        vit(image_size=30)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet18", r"a ResNet, which the backbone family 'vit' does not take\n`leapcore backbones"),
        ("swin_tiny_patch4_window7_224", "a SwinTransformer, which"),
        ("vit_small_r26_s32_224", "is a CNN followed by a ViT\nIts family is backbone: hybrid"),
    ],
)
def test_another_kind_of_model_is_refused(model, message):
    factory = installed_plugins().get("backbones", "vit")
    with pytest.raises(LeapcoreError, match=message):
        factory(model=model, weights="none", image_size=224, options={})
