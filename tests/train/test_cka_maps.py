"""Maps of CKA in a run: what they say, when, and that the run does not notice them."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import SPEC, write_shards
from shared import built, events_for

from leapcore import hookimpl, load_spec, run
from leapcore.compat import import_timm
from leapcore.data.batches import evaluation_sample
from leapcore.data.sources import from_timm
from leapcore.runs.folder import RunFolder
from leapcore.spec import DataSpec
from leapcore.train import cka_maps

RUN = [
    "train.duration=6st",
    "train.log_every=1",
    "curriculum={scheduler: cka, max_time_per_layer: 2st, threshold: 2}",
]
ITSELF = [*RUN, 'student={backbone: vit, weights: "asset:digits-vit"}']
CLOCKS = ("seconds", "images_per_second", "data_wait")


class Told:
    def __init__(self):
        self.maps = []

    @hookimpl
    def leapcore_cka_map(self, step, maps):
        self.maps += [(step, found) for found in maps]


@pytest.fixture(scope="module")
def whole(spec_file, tmp_path_factory):
    """An undisturbed run with a map every other step, and a checkpoint where there is a map and where is none."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(
        load_spec(spec_file, [*RUN, "evaluate.cka_map=2st", "checkpoint={every: 1st, keep: 9}"]),
        output=folder,
    )
    return folder


def _maps(folder):
    return [json.loads(line) for line in (folder / "cka_maps.jsonl").read_text().splitlines()]


def _metrics(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def _told_by(parts):
    told = Told()
    cka_maps.measure_cka_maps(parts, 0, events_for(told))
    ((_, found),) = told.maps
    return found


def test_a_line_per_moment_says_what_was_compared(whole):
    lines = _maps(whole)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    assert list(lines[0]) == ["step", "teacher", "images", "student_layers", "teacher_layers", "cka"]
    for line in lines:
        assert (line["teacher"], line["images"]) == ("teacher", 256)
        assert line["student_layers"] == ["blocks.0", "blocks.1"]
        assert line["teacher_layers"] == [f"blocks.{index}" for index in range(12)]
        assert [len(row) for row in line["cka"]] == [12, 12]
        assert all(0 <= score <= 1 for row in line["cka"] for score in row)
    assert lines[0]["cka"] != lines[1]["cka"] != lines[3]["cka"]


def test_the_run_does_not_notice(spec_file, whole, tmp_path):
    """Nor does one with batch norms, dropped paths and mixup."""
    run(load_spec(spec_file, RUN), output=tmp_path / "plain")
    assert _metrics(tmp_path / "plain") == _metrics(whole)
    assert not (tmp_path / "plain" / "cka_maps.jsonl").exists()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "plain", whole)]
    assert summaries[0]["flops"] == summaries[1]["flops"]
    student = "student={backbone: convnext, model: resnet10t, options: {drop_path_rate: 0.3}}"
    options = ["train={duration: 3st, batch_size: 32, log_every: 1}", student]
    for name, more in (("without", []), ("with", ["evaluate.cka_map=1st"])):
        run(load_spec(spec_file, [*options, *more]), output=tmp_path / name)
    assert _metrics(tmp_path / "with") == _metrics(tmp_path / "without")
    weights = [tmp_path / name / "student" / "model.safetensors" for name in ("with", "without")]
    assert weights[0].read_bytes() == weights[1].read_bytes()  # running statistics, too


def test_end_is_the_end_and_never_the_default(spec_file, tmp_path):
    told = Told()
    run(load_spec(spec_file, ["evaluate.cka_map=end"]), output=tmp_path / "run", listeners=[told])
    assert [step for step, _ in told.maps] == [2]
    assert [line["cka"] for line in _maps(tmp_path / "run")] == [found.cka for _, found in told.maps]
    assert load_spec(spec_file).evaluate.cka_map == "never"


def test_a_model_is_like_itself(spec_file):
    found = torch.tensor(_told_by(built(load_spec(spec_file, ITSELF))).cka)
    assert torch.allclose(found.diagonal(), torch.ones(12), atol=1e-5)
    assert torch.allclose(found, found.T, atol=1e-5)
    assert found[0, 11] < 0.9


@pytest.mark.parametrize("norm", ["final", "raw"])
def test_a_pair_has_the_score_that_the_runs_teacher_gives_the_same_images(spec_file, norm):
    parts = built(load_spec(spec_file, [*RUN, f"objective.target_norm={norm}", "train.batch_size=256"]))
    found, (teacher,) = _told_by(parts), parts.teachers
    images = torch.stack([_view(parts.splits.val[index][0]) for index in range(256)]) / 255
    (theirs,) = teacher.match.teacher_features(teacher.provider, images, 4).layers
    parts.student.eval()
    with torch.no_grad():
        (ours,) = parts.student.features(parts.student.prepare(images), [1])
        ours = teacher.match.target_norm(parts.student, ours, 1)
    rows = ours.tokens.flatten(0, 1), theirs.tokens.flatten(0, 1)
    score = teacher.alignment(*rows).item()
    assert found.cka[1][4] == pytest.approx(score, abs=2e-6)


def _view(image):
    """Of the spec: 32 pixels, all of the image."""
    from torchvision import transforms as t

    resized = t.Resize(32, t.InterpolationMode.BICUBIC)(image)
    return t.PILToTensor()(resized)


def test_training_mode_and_random_numbers_are_as_before(spec_file):
    parts = built(load_spec(spec_file, RUN))
    parts.engine.train()
    before = torch.get_rng_state()
    _told_by(parts)
    assert parts.student.training
    assert not any(teacher.provider.training for teacher in parts.teachers)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parts.ledger.macs.values())


def test_without_room_for_all_pairs_the_teachers_layers_come_in_turns(spec_file, monkeypatch):
    parts = built(load_spec(spec_file, RUN))
    wanted = _told_by(parts)
    monkeypatch.setattr(cka_maps, "MEMORY", 5 * 4 * (48 * 72 + 72 * 72))
    assert cka_maps._columns_at_once(parts.student, parts.teachers[0].provider) == 5
    found = _told_by(parts)
    assert found == wanted


def test_a_16_bit_teacher_is_compared_in_its_own_precision(spec_file):
    wanted = _told_by(built(load_spec(spec_file, RUN)))
    parts = built(load_spec(spec_file, [*RUN, "train.precision=bfloat16"]))
    kinds = {weight.dtype for weight in parts.teachers[0].provider.parameters()}
    assert torch.bfloat16 in kinds
    found = _told_by(parts)
    assert torch.allclose(torch.tensor(found.cka), torch.tensor(wanted.cka), atol=0.01)
    assert found.cka != wanted.cka


def test_each_of_two_teachers_of_other_grids_has_its_map(tmp_path):
    (tmp_path / "two.yaml").write_text(
        SPEC.replace(
            'teacher: {backbone: vit, weights: "asset:digits-vit"}',
            'teachers: {deep: {backbone: vit, weights: "asset:digits-vit"}, '
            "coarse: {backbone: convnext, model: resnet10t, weights: none}}",
        )
    )
    spec = load_spec(tmp_path / "two.yaml", ["evaluate.cka_map=1st", "train.batch_size=32"])
    run(spec, output=tmp_path / "run")
    lines = _maps(tmp_path / "run")
    assert [(line["step"], line["teacher"]) for line in lines] == [
        (step, name) for step in (0, 1, 2) for name in ("deep", "coarse")
    ]
    assert [len(line["cka"][1]) for line in lines[:2]] == [12, 4]


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_resumed_run_has_the_maps_of_the_undisturbed_one(spec_file, whole, tmp_path, step):
    """Resumed between two maps, at one, and after the last step, where the last map is measured again."""
    again = tmp_path / "run"
    spec = load_spec(spec_file, [*RUN, "evaluate.cka_map=2st", "checkpoint={every: 1st, keep: 9}"])
    shutil.copytree(whole, again)
    with (again / "cka_maps.jsonl").open("a") as file:
        file.write('{"step": 8, "te')  # a kill's half a line
    (again / "summary.json").unlink()
    run(spec, output=again, resume=f"step-{step:08}")
    assert (again / "cka_maps.jsonl").read_text() == (whole / "cka_maps.jsonl").read_text()


def test_an_overwritten_runs_maps_go_with_it(spec_file, tmp_path):
    run(load_spec(spec_file, ["evaluate.cka_map=end"]), output=tmp_path)
    run(load_spec(spec_file), output=tmp_path, overwrite=True)
    assert not (tmp_path / "cka_maps.jsonl").exists()


DATA = DataSpec(source="digits", image_size=8, crop=1.0, workers=0)


class OneClassAfterTheOther:
    """Images whose grey is their number, ten of each class."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        from PIL import Image

        return Image.new("L", (8, 8), index), index // 10


@pytest.mark.parametrize(
    ("size", "numbers"), [(15, range(15)), (99, range(40)), (8, range(0, 40, 5)), (10, range(0, 40, 4))]
)
def test_the_sample_is_the_first_images_or_evenly_spaced_ones(size, numbers):
    pixels = evaluation_sample(OneClassAfterTheOther(), DATA, size)
    assert pixels[:, 0, 0, 0].tolist() == list(numbers)


def test_of_a_stream_too(tmp_path):
    pytest.importorskip("webdataset")
    write_shards(tmp_path / "shards", shards=2)
    data = DataSpec(
        source="wds/toy", root=str(tmp_path / "shards"), val="validation", image_size=8, workers=0
    )
    stream = from_timm(data, "toy", 0).val
    # Even images are of one class and come first, odd ones of the other; an image's red is 30 times its number.
    reds = {size: evaluation_sample(stream, data, size)[:, 0, 0, 0].float() / 30 for size in (2, 5)}
    assert {size: found.round().int().tolist() for size, found in reds.items()} == {
        2: [0, 1],
        5: [0, 2, 4, 6, 1],
    }


def test_the_summary_tells_the_machine(spec_file, whole):
    machine = json.loads((whole / "summary.json").read_text())["machine"]
    assert machine["torch"] == torch.__version__
    assert machine["timm"] == import_timm().__version__
    assert (machine["device"], machine["processes"]) == ("cpu", 1)
    assert machine["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    assert {"leapcore", "deepspeed", "platform", "threads"} < machine.keys()


def test_a_summary_without_a_machine_is_read(whole, tmp_path):
    told = json.loads((whole / "summary.json").read_text())
    folder = RunFolder(Path(tmp_path / "run"))
    for machine in (told["machine"], {}):
        (folder.path / "summary.json").write_text(json.dumps(told))
        assert folder.report().machine == machine
        told.pop("machine", None)
    folder.close()
