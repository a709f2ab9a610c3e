"""Targets of several layers and the patch-embedding loss, against the formulas of LEAP's code."""

import pytest
import torch
import torch.nn.functional as F

from leapcore import Distiller, LayerFeatures, LayerInfo, Match
from leapcore.core.matching import EmbeddingLoss
from leapcore.core.targets import AllLayers, LayerAndLast, LayerPair, OneLayer
from leapcore.plugins.loader import installed_plugins

PIXELS = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def _compare(student, teacher, layer, **options):
    match = Match(student, teacher, **options)
    distiller = Distiller(student, {"teacher": match})
    features = match.teacher_features(teacher, PIXELS, layer)
    return match, distiller(PIXELS, {"teacher": features}).comparisons["teacher"]


def test_which_layers_are_paired():
    assert OneLayer(6, 12).pairs(3) == [LayerPair(5, 3)]
    assert LayerAndLast(6, 12).pairs(3) == [LayerPair(5, 3), LayerPair(5, 11)]
    assert [pair.teacher for pair in AllLayers(12, 12).pairs(0)] == list(range(12))
    assert [pair.teacher for pair in AllLayers(6, 12).pairs(0)] == [1, 3, 5, 7, 9, 11]
    assert [pair.teacher for pair in AllLayers(4, 3).pairs(0)] == [0, 1, 2, 2]
    assert [pair.student for pair in AllLayers(4, 3).pairs(0)] == [0, 1, 2, 3]


def test_the_layer_beside_the_last_is_never_the_last_itself():
    assert LayerAndLast(6, 12).choices == 11
    with pytest.raises(ValueError, match="the teacher has one layer, which is its last"):
        LayerAndLast(6, 1)


def test_layer_and_last_equal_the_concatenation_under_a_head_of_twice_the_width(vit):
    student, teacher = vit(embed_dim=12), vit()
    match, result = _compare(student, teacher, 1, target="layer+last")
    heads = [projector.heads["24"] for projector in match.projectors]
    weight, bias = torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads])
    (ours,) = student(student.prepare(PIXELS), [3])
    target, last = teacher(teacher.prepare(PIXELS), [1, 3])
    patch = F.mse_loss(F.linear(ours.tokens, weight, bias), torch.cat([target.tokens, last.tokens], -1))
    cls = F.mse_loss(F.linear(ours.pooled, weight, bias), torch.cat([target.pooled, last.pooled], -1))
    assert result.patch_loss.item() == pytest.approx(patch.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx((patch + 0.05 * cls).item(), rel=1e-5)
    assert torch.equal(result.target, target.tokens.flatten(0, 1)), (
        "the score looks at the target layer alone"
    )
    assert torch.allclose(result.projected, heads[0](ours.tokens).flatten(0, 1))


@pytest.mark.parametrize(("reduction", "reduce"), [("sum", torch.sum), ("mean", torch.mean)])
def test_all_layers_each_have_a_head_and_the_students_inner_layers_no_norm(vit, reduction, reduce):
    student, teacher = vit(embed_dim=12), vit()
    match, result = _compare(student, teacher, 3, target="all", reduction=reduction)
    ours = list(student.iter_layers(student.prepare(PIXELS)))
    ours[3] = student.finalize(ours[3], 3)
    theirs = teacher(teacher.prepare(PIXELS), range(4))
    heads = [projector.heads["24"] for projector in match.projectors]
    assert len({id(head) for head in heads}) == 4
    patch = reduce(
        torch.stack([F.mse_loss(h(o.tokens), t.tokens) for h, o, t in zip(heads, ours, theirs, strict=True)])
    )
    cls = reduce(
        torch.stack([F.mse_loss(h(o.pooled), t.pooled) for h, o, t in zip(heads, ours, theirs, strict=True)])
    )
    assert result.patch_loss.item() == pytest.approx(patch.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx((patch + 0.05 * cls).item(), rel=1e-5)
    result.loss.backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in match.projectors.parameters())


def test_the_patch_embedding_loss_compares_what_the_first_convolutions_make(vit):
    student, teacher = vit(embed_dim=12), vit()
    match, result = _compare(student, teacher, 0, patch_embedding=0.5)
    ours = student.model.patch_embed.proj(student.prepare(PIXELS)).flatten(2).mT
    theirs = teacher.model.patch_embed.proj(teacher.prepare(PIXELS)).flatten(2).mT
    expected = F.mse_loss(F.layer_norm(match.embedding.head(ours), [24]), F.layer_norm(theirs, [24]))
    assert result.embedding_loss.item() == pytest.approx(expected.item(), rel=1e-5)
    total = result.patch_loss + 0.05 * result.cls_loss + 0.5 * result.embedding_loss
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-5)
    result.loss.backward()
    assert all(p.grad.norm() > 0 for p in match.embedding.parameters())
    assert student.model.patch_embed.proj.weight.grad.norm() > 0


def test_patch_embeddings_of_different_grids_meet_on_the_smaller(vit):
    student, teacher = vit(patch_size=14, embed_dim=12), vit()
    _, result = _compare(student, teacher, 0, patch_embedding=1.0)
    assert 0 < result.embedding_loss.item() < 10


def test_equal_patch_embeddings_have_no_loss_whichever_grid_is_finer(vit):
    fine, coarse = (LayerFeatures(torch.rand(2, side**2, 24), (side, side)) for side in (4, 2))
    for student, teacher in ((fine, fine.resized((2, 2))), (coarse, coarse)):
        loss = EmbeddingLoss(vit(), vit())
        torch.nn.init.eye_(loss.head.weight)
        torch.nn.init.zeros_(loss.head.bias)
        assert loss(student, teacher).item() == pytest.approx(0, abs=1e-8)


def test_the_embedding_of_a_hybrid_is_not_taken_for_a_convolution():
    with torch.device("meta"):
        hybrid = installed_plugins().get("backbones", "vit")(
            model="vit_base_mci_224", weights="none", image_size=224, options={}
        )
    assert hybrid.embedding is None


def test_a_backbone_without_a_patch_embedding_is_named(vit):
    student, teacher = vit(), vit()
    student.embedding = None
    with pytest.raises(ValueError, match="the student's backbone family has no patch embedding"):
        Match(student, teacher, patch_embedding=1.0)


def test_two_teachers_add_their_losses_by_weight_and_keep_their_own_heads(vit):
    """``half`` is also a method of modules, which a teacher may be named after all the same."""
    student, teachers = vit(embed_dim=12), {"half": vit(embed_dim=24), "wide": vit(embed_dim=48, depth=2)}
    matches = {name: Match(student, teacher) for name, teacher in teachers.items()}
    distiller = Distiller(student, matches, weights={"wide": 0.25})
    targets = {name: matches[name].teacher_features(teachers[name], PIXELS, 1) for name in teachers}
    result = distiller(PIXELS, targets)
    small, wide = (result.comparisons[name].loss for name in ("half", "wide"))
    assert result.loss.item() == pytest.approx((small + 0.25 * wide).item())
    result.loss.backward()
    assert all(p.grad.norm() > 0 for p in distiller.matches.parameters())


def test_stages_of_different_widths_get_a_head_each(vit):
    student, teacher = vit(embed_dim=12), vit()
    teacher.layers = tuple(LayerInfo(f"stage.{i}", c, 7) for i, c in enumerate((8, 8, 16, 32)))
    match = Match(student, teacher, target="layer+last")
    assert [sorted(projector.heads) for projector in match.projectors] == [["16", "8"], ["32"]]
    narrow = LayerFeatures(torch.rand(4, 16, 8), (4, 4))
    wide = LayerFeatures(torch.rand(4, 4, 32), (2, 2))
    features = Distiller(student, {"t": match}).student_features(student.prepare(PIXELS))
    projected = [ours for ours, _ in match.projected(features, [narrow, wide])]
    assert [(p.channels, p.grid) for p in projected] == [(8, (4, 4)), (32, (2, 2))]
