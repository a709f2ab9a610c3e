"""Teacher and student of every pair of families: widths, grids and strides differ, layer by layer."""

import json

import pytest
import torch
from shared import built

from leapcore import (
    Distiller,
    FlopsLedger,
    LayerFeatureProvider,
    LayerFeatures,
    LayerInfo,
    Match,
    load_spec,
    run,
)
from leapcore.core.alignment_schedulers import CkaScheduler
from leapcore.core.flops import count_layer_macs
from leapcore.core.layer_check import layer_shapes
from leapcore.core.matching import StudentFeatures
from leapcore.core.provider import ImageInput
from leapcore.train.costs import head_macs, student_macs
from leapcore.train.loop import Loop

MODELS = {
    "vit": "{backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, depth: 3, embed_dim: 24, num_heads: 2}}",
    "convnext": "{backbone: convnext, model: convnext_tiny, options: {depths: [1, 1, 2, 1], dims: [8, 16, 24, 32]}}",
    "hybrid": "{backbone: hybrid, model: coatnet_0_rw_224, options: {embed_dim: [32, 32, 64, 64], depths: [1, 1, 1, 1], stem_width: 16}}",
}
SPEC = """\
name: pair
teacher: {teacher}
student: {student}
data: {{source: digits, image_size: 64, crop: 1.0, workers: 0}}
curriculum: {{scheduler: linear}}
optimizer: {{name: adamw, lr: 0.001, warmup: 1st}}
train: {{duration: 5st, batch_size: 16, log_every: 1}}
evaluate: {{knn: never, linear: never}}
"""


def _spec(tmp_path, teacher, student, *overrides):
    text = SPEC.format(teacher=MODELS[teacher], student=MODELS[student])
    (tmp_path / "spec.yaml").write_text(text)
    return load_spec(tmp_path / "spec.yaml", overrides)


@pytest.mark.parametrize("student", MODELS)
@pytest.mark.parametrize("teacher", MODELS)
def test_every_family_learns_from_every_family(tmp_path, teacher, student):
    report = run(_spec(tmp_path, teacher, student), output=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 5
    assert all(0 < loss < 100 for loss in losses)
    targets = [change.target for change in report.curriculum]
    assert targets[0] == 1
    assert len(targets) >= 3
    assert 0 < report.flops["saved"] < 1


def test_one_head_per_width_and_the_flops_of_each_grid(tmp_path):
    parts = built(_spec(tmp_path, "convnext", "vit"))
    (teacher,) = parts.teachers
    assert set(teacher.match.projectors[0].heads) == {"8", "16", "24", "32"}
    # On 64 px the student has 8 x 8 cells, the teacher's stages have 16 x 16, 8 x 8, 4 x 4 and 2 x 2.
    tokens, prefix, pooling = (64, 64, 16, 16, 4), 1, (0, 0, 64 * 24, 64 * 24, 64 * 24)
    widths = [layer.channels for layer in teacher.provider.layers]
    assert parts.costs.teachers[teacher.name].heads == [
        (n + prefix) * 24 * width + pool for n, width, pool in zip(tokens, widths, pooling, strict=True)
    ]
    assert parts.ledger.student_macs == parts.costs.student + parts.costs.teachers[teacher.name].heads[-1]


def test_the_ledger_books_the_heads_of_each_steps_target(tmp_path):
    loop = Loop(
        built(_spec(tmp_path, "convnext", "vit", "curriculum={scheduler: steps, at: {0st: 1, 2st: 5}}"))
    )
    loop.fit()
    parts = loop.parts
    heads = parts.costs.teachers["teacher"].heads
    macs = 5 * parts.costs.student + 2 * heads[0] + 3 * heads[4]
    assert parts.ledger.macs["student"] == 3 * 16 * macs


@pytest.mark.parametrize(("grid", "tokens"), [("smaller", 4), ("larger", 64)])
def test_which_side_is_resized_is_a_choice(tmp_path, grid, tokens):
    loop = Loop(built(_spec(tmp_path, "convnext", "vit", f"objective.grid={grid}")))
    (teacher,) = loop.parts.teachers
    pixels = torch.rand(2, 3, 64, 64)
    features = teacher.match.teacher_features(teacher.provider, pixels, 4)
    comparison = loop.parts.engine(pixels, {"teacher": features}).comparisons["teacher"]
    assert comparison.target.shape == comparison.projected.shape == (2 * tokens, 32)


@pytest.mark.parametrize("norm", ["final", "parameter-free", "raw"])
def test_targets_are_normalised_as_the_spec_says(tmp_path, norm):
    parts = built(_spec(tmp_path, "convnext", "vit", f"objective.target_norm={norm}"))
    (teacher,) = parts.teachers
    with torch.no_grad():
        teacher.provider.model.head.norm.weight.fill_(2)
    pixels = torch.rand(2, 3, 64, 64)
    raw = teacher.provider.features(teacher.provider.prepare(pixels), [0, 4])
    spread = {}
    for layer, features in zip((0, 4), raw, strict=True):
        (target,) = teacher.match.teacher_features(teacher.provider, pixels, layer).layers
        spread[layer] = target.tokens.std(-1, correction=0).mean().item()
        assert torch.equal(target.tokens, features.tokens) == (norm == "raw")
    if norm != "raw":  # the final norm, whose gain is 2 here, fits the last stage alone
        assert spread[0] == pytest.approx(1, abs=0.01)
        assert spread[4] == pytest.approx(2 if norm == "final" else 1, abs=0.02)


def test_teacher_and_student_see_their_own_size_and_normalisation(tmp_path):
    own = [
        "teacher.options.img_size=96",
        "student={backbone: vit, model: vit_base_patch16_clip_224, options: {patch_size: 8, depth: 2, embed_dim: 24, num_heads: 2}}",
    ]
    parts = built(_spec(tmp_path, "convnext", "vit", *own))
    (teacher,) = parts.teachers
    pixels = torch.rand(2, 3, 64, 64)
    for provider, size in ((teacher.provider, 96), (parts.student, 64)):
        assert provider.prepare(pixels).shape == (2, 3, size, size)
    assert teacher.provider.image_input.mean != parts.student.image_input.mean
    assert parts.costs.teachers[teacher.name].whole > count_layer_macs(teacher.provider, (3, 64, 64)).whole
    result = parts.engine(pixels, {"teacher": teacher.compute(4, pixels)})
    assert result.loss.isfinite()


class TextTower(LayerFeatureProvider):
    """A transformer over 12 token ids: no image, no grid, the last token stands for the text."""

    def __init__(self, width=16, depth=3):
        layers = [LayerInfo(f"blocks.{i}", width, 1) for i in range(depth)]
        super().__init__(layers, ImageInput((1, 12), (0.0,), (1.0,)))
        self.model = torch.nn.Module()
        self.model.embedding = torch.nn.Embedding(50, width)
        block = lambda: torch.nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0, batch_first=True)  # noqa: E731
        self.model.blocks = torch.nn.ModuleList(block() for _ in range(depth))

    def example_input(self, batch_size=1):
        return torch.zeros(batch_size, 12, dtype=torch.long)

    def prepare(self, pixels):
        return pixels

    def iter_layers(self, images):
        x = self.model.embedding(images)
        for block in self.model.blocks:
            x = block(x)
            yield LayerFeatures(x, None, x[:, -1:])


def test_a_tower_without_a_grid_goes_through_core_scheduler_projector_and_ledger():
    teacher, student = TextTower(width=16, depth=4).eval(), TextTower(width=8, depth=2)
    match = Match(student, teacher)
    distiller = Distiller(student, {"teacher": match})
    macs = count_layer_macs(teacher, norm=match.target_norm)
    assert len(set(macs.steps[1:])) == 1
    shapes = StudentFeatures(dict(enumerate(layer_shapes(student)))), layer_shapes(teacher)
    heads = head_macs(match, *shapes)
    assert heads == [(12 + 1) * 8 * 16] * 4
    ledger = FlopsLedger(macs.whole, student_macs(distiller) + heads[-1])
    scheduler, optimizer = CkaScheduler(4, threshold=0.3), torch.optim.Adam(distiller.parameters(), 1e-2)
    text = torch.randint(50, (8, 12))
    scheduler.start([0.5, 0.2, 0.2, 0.2])
    losses = []
    for _ in range(20):
        result = distiller(text, {"teacher": match.teacher_features(teacher, text, scheduler.target)})
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        ledger.record_step(8, teacher_macs=macs.until(scheduler.target))
        scheduler.step(0.9)
        losses.append(result.loss.item())
    assert losses[-1] < losses[0]
    assert scheduler.target > 0
    assert 0 < ledger.saved < 1


def test_an_image_tower_and_a_text_tower_are_compared_by_their_pooled_vectors(vit):
    images, text = vit(embed_dim=24), TextTower(width=16)
    match = Match(images, text)
    features = match.teacher_features(text, torch.randint(50, (4, 12)), 1)
    student = Distiller(images, {"t": match}).student_features(images.prepare(torch.rand(4, 3, 28, 28)))
    comparison = match(student, features)
    assert comparison.target.shape == (4, 16)  # one vector per pair of image and text
    assert comparison.loss.requires_grad


def test_heads_that_wait_for_their_turn_do_not_decay(tmp_path):
    schedule = "curriculum={scheduler: steps, at: {0st: 1}}"
    decay = ["optimizer.weight_decay=0.5", "optimizer.lr=0.1", "optimizer.warmup=0st"]
    loop = Loop(built(_spec(tmp_path, "convnext", "vit", schedule, *decay)))
    heads = loop.parts.teachers[0].match.projectors[0].heads
    before = {width: head.weight.clone() for width, head in heads.items()}
    loop.fit()
    assert [width for width, head in heads.items() if not torch.equal(head.weight, before[width])] == ["8"]


def test_stretching_grids_works_in_bfloat16(tmp_path):
    overrides = ["objective.grid=larger", "train.precision=bfloat16", "train.duration=1st"]
    assert run(_spec(tmp_path, "vit", "convnext", *overrides), output=tmp_path / "run").steps == 1


def test_an_exported_student_knows_its_image_size(tmp_path):
    run(_spec(tmp_path, "vit", "convnext", "train.duration=1st"), output=tmp_path / "run")
    config = json.loads((tmp_path / "run/student/config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]


def test_a_student_with_parts_that_nothing_trains_is_warned_of(tmp_path, caplog):
    student = "student={backbone: timm, model: mobilenetv3_small_050}"
    built(_spec(tmp_path, "vit", "convnext", student))
    assert "52% of the student's parameters are never trained" in caplog.text
    assert "conv_head" in caplog.text
