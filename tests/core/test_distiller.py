"""The training step against the reference code's numbers (golden/step.json)."""

import numpy as np
import pytest
import torch
from torch import nn

from leapcore import Distiller, ImageInput, Match, Projector, linear_cka
from leapcore.core.distiller import merged
from leapcore.core.losses import cosine, mse, sigreg
from leapcore.core.matching import TeacherFeatures

# The reference names two of the teacher's tensors otherwise than timm.
RENAMED = {"register_tokens": "reg_token", "mask_token": None}
OTHER_SHAPES = {"mask_token": (1, 24), "pos_embed": (1, 17, 24)}


def _fill(names, shape_of, seed):
    """Weights as the recipe says: sorted names, one random state."""
    random = np.random.RandomState(seed)
    weights = {}
    for name in names:
        values = random.randn(*shape_of(name))
        if "gamma" in name:
            values = 0.5 + 0.1 * values
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.2 * values
        weights[name] = torch.from_numpy(values.astype(np.float32))
    return weights


def _pixels_as_they_are(provider):
    provider.image_input = ImageInput((28, 28), (0.0,) * 3, (1.0,) * 3)
    provider._mean.zero_()
    provider._std.fill_(1)
    return provider


def _distiller(student, teacher, sigreg=0.0, **options):
    match = Match(student, teacher, **options)
    return Distiller(student, {"teacher": match}, sigreg=sigreg)


def _head(distiller, kind="heads", width="24"):
    return getattr(distiller.matches[0].projectors[0], kind)[width]


def _compare(distiller, teacher, pixels, layer):
    """A step's result, and the comparison with the only teacher."""
    features = distiller.matches[0].teacher_features(teacher, pixels, layer)
    result = distiller(pixels, {"teacher": features})
    return result, result.comparisons["teacher"]


@pytest.fixture
def step(golden, vit):
    """Teacher, distiller and images of the recipe, and the expected numbers."""
    recipe, expected = golden("step")["recipe"], golden("step")
    options = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1.0}
    teacher = _pixels_as_they_are(vit(depth=4, embed_dim=24, num_heads=3, **options))
    own = teacher.model.state_dict()
    names = recipe["teacher_param_names_sorted"]
    weights = _fill(names, lambda name: OTHER_SHAPES.get(name) or own[RENAMED.get(name, name)].shape, seed=11)
    weights["cls_token"] = weights["cls_token"] + weights["pos_embed"][:, :1]
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    weights["reg_token"] = weights.pop("register_tokens")
    del weights["mask_token"]
    teacher.model.load_state_dict(weights)

    student = _pixels_as_they_are(vit(depth=3, embed_dim=16, num_heads=2))
    shapes = student.model.state_dict()
    filled = _fill(recipe["student_param_names_sorted"], lambda name: shapes[name].shape, seed=12)
    student.model.load_state_dict(filled)
    distiller = _distiller(student, teacher)
    weights = _fill(["bias", "weight"], lambda name: (24,) if name == "bias" else (24, 16), seed=13)
    _head(distiller).load_state_dict(weights)
    images = torch.from_numpy(np.random.RandomState(14).randn(8, 3, 28, 28).astype(np.float32))
    return teacher, distiller, images, expected


def test_losses_alignment_and_gradients_equal_the_reference_at_every_block(step):
    teacher, distiller, images, golden = step
    for expected in golden["per_block"]:
        distiller.zero_grad()
        total, result = _compare(distiller, teacher, images, expected["target_block_1based"] - 1)
        assert total.loss.item() == result.loss.item()
        assert result.patch_loss.item() == pytest.approx(expected["patch_loss"], rel=1e-5)
        assert result.cls_loss.item() == pytest.approx(expected["cls_loss"], rel=1e-5)
        assert result.loss.item() == pytest.approx(expected["total_with_cls_0.05"], rel=1e-5)
        cka = linear_cka(result.projected, result.target).item()
        assert cka == pytest.approx(expected["cka"], abs=1e-5)
        total.loss.backward()
        head = _head(distiller)
        assert head.weight.grad.norm().item() == pytest.approx(
            expected["head_grad_norms"]["mlp.weight"], rel=1e-4
        )
        assert head.bias.grad.norm().item() == pytest.approx(
            expected["head_grad_norms"]["mlp.bias"], rel=1e-4
        )
        student_norm = torch.stack([p.grad.norm() for p in distiller.student.parameters()]).norm().item()
        assert student_norm == pytest.approx(expected["student_grad_norm"], rel=1e-4)


def test_calibration_scan_equals_the_reference(step):
    teacher, distiller, images, golden = step
    results = [_compare(distiller, teacher, images, layer)[1] for layer in range(4)]
    scores = [linear_cka(result.projected, result.target).item() for result in results]
    assert [round(score, 3) for score in scores] == [0.162, 0.164, 0.162, 0.154]
    assert scores[1] == pytest.approx(golden["calibration"]["cka_first_step"], abs=1e-5)


def test_the_teacher_is_no_part_of_what_is_trained(step):
    teacher, distiller, *_ = step
    trained = {id(parameter) for parameter in distiller.parameters()}
    assert trained
    assert not trained & {id(parameter) for parameter in teacher.parameters()}


def test_a_larger_grid_is_pooled_to_the_smaller(vit):
    teacher, student = vit(patch_size=4), vit(patch_size=7, embed_dim=12)
    _, result = _compare(_distiller(student, teacher), teacher, torch.rand(2, 3, 28, 28), 0)
    assert result.projected.shape == result.target.shape == (2 * 16, 24)


def test_projector_starts_as_leap_does_and_has_one_head_per_width():
    torch.manual_seed(0)
    projector = Projector(384, [1536, 1536, 96])
    assert sorted(projector.heads) == ["1536", "96"]
    head = projector.heads["1536"]
    assert isinstance(head, nn.Linear)
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert head.weight.abs().max() <= 2
    assert not head.bias.any()


def test_cosine_loss_ignores_scale():
    x = torch.rand(2, 5, 8)
    assert cosine(3 * x, x).item() == pytest.approx(0, abs=1e-6)
    assert cosine(-x, x).item() == pytest.approx(2, abs=1e-6)


def test_a_separate_class_head_is_used_and_trained(vit):
    teacher, pixels = vit(), torch.rand(2, 3, 28, 28)
    distiller = _distiller(vit(embed_dim=12), teacher, cls_head="separate")
    total, result = _compare(distiller, teacher, pixels, 1)
    total.loss.backward()
    (features,) = distiller.student(distiller.student.prepare(pixels), [3])
    (target,) = teacher(teacher.prepare(pixels), [1])
    own = _head(distiller, "cls_heads")
    assert result.cls_loss.item() == pytest.approx(mse(own(features.pooled), target.pooled).item(), rel=1e-5)
    assert own.weight.grad.norm() > 0
    assert not torch.equal(own.weight, _head(distiller).weight)


def test_resetting_the_projector_draws_new_heads_in_place():
    projector = Projector(12, [24], cls_head="separate")
    before = [parameter.clone() for parameter in projector.parameters()]
    kept = [id(parameter) for parameter in projector.parameters()]
    with torch.no_grad():
        projector.heads["24"].bias.fill_(1)
    projector.reset()
    assert [id(parameter) for parameter in projector.parameters()] == kept
    assert not torch.equal(projector.heads["24"].weight, before[0])
    assert not projector.heads["24"].bias.any()


def test_a_match_resets_all_its_projectors(vit):
    match = Match(vit(embed_dim=12), vit(), target="all")
    before = [projector.heads["24"].weight.clone() for projector in match.projectors]
    match.reset_projectors()
    assert len(before) == 4
    for old, projector in zip(before, match.projectors, strict=True):
        assert not torch.equal(projector.heads["24"].weight, old)


def test_sigreg_is_zero_for_white_features_and_joins_the_loss(vit):
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(200_000, 4, generator=generator)
    assert sigreg(white).item() == pytest.approx(0, abs=0.02)
    assert sigreg(torch.zeros(10, 4)).item() == pytest.approx(2)  # the norm of the 4 x 4 identity
    assert sigreg(3 * white).item() == pytest.approx(16, rel=0.01)  # 4 variances of 9: 8 too many each
    teacher, pixels = vit(), torch.rand(4, 3, 28, 28)
    distiller = _distiller(vit(embed_dim=12), teacher, sigreg=0.01, cls_weight=0.0)
    total, result = _compare(distiller, teacher, pixels, 1)
    assert total.loss.item() == pytest.approx((result.patch_loss + 0.01 * total.sigreg_loss).item())
    assert total.sigreg_loss > 0


@pytest.mark.parametrize("patch_embedding", [0.0, 0.5])
def test_equal_parts_of_a_batch_merge_into_what_the_whole_gives(vit, patch_embedding):
    teacher, pixels = vit(), torch.rand(4, 3, 28, 28)
    distiller = _distiller(vit(embed_dim=12), teacher, patch_embedding=patch_embedding)
    match = distiller.matches[0]
    whole = match.teacher_features(teacher, pixels, 1)
    pieces = [match.teacher_features(teacher, part, 1) for part in pixels.split(2)]
    joined = TeacherFeatures.joined(pieces)
    assert torch.allclose(joined.layers[0].pooled, whole.layers[0].pooled, atol=1e-6)
    assert (joined.embedding is None) == (patch_embedding == 0)
    expected = distiller(pixels, {"teacher": whole})
    parts = [distiller(part, {"teacher": piece}) for part, piece in zip(pixels.split(2), pieces, strict=True)]
    result = merged(parts)
    assert result.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert not result.loss.requires_grad
    for ours, theirs in zip(result.comparisons["teacher"], expected.comparisons["teacher"], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert merged(parts[:1]) is parts[0]
    assert TeacherFeatures.joined(pieces[:1]) is pieces[0]
