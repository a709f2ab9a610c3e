"""Linear CKA of all pairs of layers, summed up batch by batch."""

import math

import pytest
import torch

from leapcore import linear_cka
from leapcore.core.features import LayerFeatures, on_common_grid
from leapcore.evaluation.cka_map import cka_map

IMAGES = torch.arange(12).view(12, 1, 1, 1)


def layers(*shapes, offset=3.0, prefix=False, seed=0):
    """Features of twelve images, one per (rows, columns, channels); rows None for features without a grid."""
    torch.manual_seed(seed)
    features = []
    for height, width, channels in shapes:
        tokens = torch.randn(12, (height or 1) * width, channels) + offset * torch.randn(channels)
        grid = None if height is None else (height, width)
        features.append(LayerFeatures(tokens, grid, torch.randn(12, 2, channels) if prefix else None))
    return features


def backbone(features):
    """What :func:`cka_map` calls: it gives the features of the images with these numbers."""

    def some(images):
        here = images.flatten()
        for layer in features:
            prefix = None if layer.prefix_tokens is None else layer.prefix_tokens[here]
            yield LayerFeatures(layer.tokens[here], layer.grid, prefix)

    return some


def expected(student, teacher, grid="smaller"):
    pairs = [[on_common_grid(a, b, grid=grid) for b in teacher] for a in student]
    return [
        [linear_cka(a.tokens.flatten(0, 1), b.tokens.flatten(0, 1)).item() for a, b in row] for row in pairs
    ]


def close(scores, others):
    return torch.allclose(torch.tensor(scores), torch.tensor(others), atol=2e-6)


@pytest.mark.parametrize("grid", ["smaller", "larger"])
@pytest.mark.parametrize("at_once", [12, 5])
def test_it_is_the_alignment_of_each_pair_on_its_common_grid(grid, at_once):
    student = layers((4, 4, 8), (4, 4, 8), (2, 2, 16))
    teacher = layers((4, 4, 6), (2, 8, 6), (1, 1, 24), seed=1, prefix=True)
    scores = cka_map(backbone(student), backbone(teacher), IMAGES.split(at_once), grid=grid)
    assert close(scores, expected(student, teacher, grid))


def test_layers_without_a_grid_are_compared_as_in_a_run():
    student = layers((4, 4, 8), (2, 2, 8), prefix=True)
    teacher = layers((None, 4, 6), (None, 7, 6), seed=1)  # as many tokens as one, and as none
    scores = cka_map(backbone(student), backbone(teacher), IMAGES.split(5))
    assert close(scores, expected(student, teacher))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_backbone_is_like_itself_layer_by_layer(offset):
    """With a mean a hundred times the deviation, too."""
    student = layers(*[(4, 4, 8)] * 3, offset=offset)
    scores = torch.tensor(cka_map(backbone(student), backbone(student), IMAGES.split(5)))
    assert torch.allclose(scores.diagonal(), torch.ones(3), atol=1e-5)
    assert torch.allclose(scores, scores.T, atol=1e-5)
    assert (scores - torch.eye(3)).max() < 0.5


def test_scale_does_not_matter_constants_give_0_and_infinities_nan():
    base, constant, broken = layers(*[(4, 4, 8)] * 3)
    tiny = LayerFeatures(base.tokens * 1e-20, base.grid)
    huge = LayerFeatures(base.tokens * 1e20, base.grid)
    constant = LayerFeatures(constant.tokens[:1, :1].expand(12, 16, 8), base.grid)
    broken.tokens[7, 3, 2] = math.inf
    (row,) = cka_map(backbone([base]), backbone([tiny, huge, constant, broken]), IMAGES.split(5))
    assert row[:3] == pytest.approx([1, 1, 0], abs=1e-5)
    assert math.isnan(row[3])


def test_16_bit_features_are_widened_under_autocast_too():
    student = layers((4, 4, 64))
    half = [LayerFeatures(layer.tokens.bfloat16(), layer.grid) for layer in layers((4, 4, 64), seed=1)]
    wide = [LayerFeatures(layer.tokens.float(), layer.grid) for layer in half]
    with torch.autocast("cpu", torch.bfloat16):
        scores = cka_map(backbone(student), backbone(half), IMAGES.split(5))
    assert close(scores, expected(student, wide))
