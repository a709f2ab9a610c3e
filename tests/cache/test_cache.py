"""Runs that find what their teachers computed: cheaper, else the same, and never with what is stale."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import SPEC, write_shards
from shared import built

from leapcore import load_spec, run
from leapcore.cache.key import feature_key
from leapcore.core.duration import RunLength
from leapcore.data.batches import TrainingBatches
from leapcore.data.loading import Batch
from leapcore.data.sources import digits, from_timm
from leapcore.distributed.ranks import Ranks
from leapcore.errors import CheckpointError, SpecError
from leapcore.models.build import backbone_of
from leapcore.models.digests import code_digest, structure_digest
from leapcore.spec import DataSpec
from leapcore.train.build import build_teacher

# Three epochs of four steps; the target moves in the midst of the second.
MOVING = [
    "train={duration: 12st, batch_size: 320, log_every: 1}",
    "objective.mixup=false",
    "data.augment.views=1",
    "curriculum={scheduler: steps, at: {0st: 1, 6st: 2}}",
    "checkpoint={every: 3st, keep: 9}",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(SPEC)
    return path


def lines(folder, without=()):
    clocks = {"seconds", "images_per_second", "data_wait", *without}
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in clocks} for line in found if "loss" in line]


def hits(folder):
    return [line["cache_hits"] for line in lines(folder)]


# The key


def key_of(path, *overrides, act=lambda teacher: None):
    spec = load_spec(path, list(overrides))
    models = (backbone_of(wanted, 32) for wanted in (spec.each_teacher["teacher"], spec.student))
    teacher = build_teacher(spec, "teacher", *models, RunLength(2, 1), Ranks())
    act(teacher)
    return feature_key(
        "teacher", teacher.provider, teacher.match, teacher.fingerprint, spec, torch.device("cpu")
    )


def last_weight(teacher):
    list(teacher.provider.parameters())[-1].data.flatten()[-1] += 1e-6


def heads(teacher):
    teacher.provider.model.blocks[0].attn.num_heads = 2


def test_whatever_decides_the_features_is_in_the_key(path):
    keys = [
        key_of(path),
        key_of(path, "objective.target_norm=raw"),
        key_of(path, "train.precision=bfloat16"),
        key_of(path, "objective.patch_embedding=0.1"),
        key_of(path, act=last_weight),
        key_of(path, act=heads),
        key_of(path, act=lambda teacher: setattr(teacher.provider, "image_input", teacher.provider.image_input._replace(std=(1, 1, 1)))),
    ]  # fmt: skip
    assert len({json.dumps(key) for key in keys}) == len(keys)
    same = key_of(
        path, "train.seed=3", "objective.mixup=false", "student.options.depth=1", "train.batch_size=32"
    )
    assert same == keys[0]


def test_a_key_is_the_same_in_another_process(path):
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_cache import key_of; "
        "print(json.dumps(key_of(Path(sys.argv[2]))))"
    )
    here = os.path.dirname(__file__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(here)])}
    told = subprocess.run(
        [sys.executable, "-c", code, here, path], capture_output=True, text=True, check=True, env=env
    )
    assert json.loads(told.stdout.splitlines()[-1]) == json.loads(json.dumps(key_of(path)))


def test_a_backbone_whose_code_changed_is_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ownblock.py").write_text("from torch import nn\nclass Own(nn.Identity): pass\n")
    import ownblock

    before = code_digest([ownblock.Own])
    (tmp_path / "ownblock.py").write_text("from torch import nn\nclass Own(nn.Identity): ...\n")
    assert code_digest([ownblock.Own]) != before
    assert structure_digest(ownblock.Own()) != structure_digest(torch.nn.Identity())


# Views


def views_of(data, epoch, **options):
    """Each image's view by its digest, and their order."""
    images = digits(data, "", 0).train
    batches = TrainingBatches(images, data, 479, seed=3, digests=True, **options)
    return [bytes(row) for batch in batches.epoch(epoch) for row in batch.digests.tolist()]


def test_views_come_again_in_another_order(path):
    data = DataSpec(source="digits", image_size=16, workers=0, augment={"views": 2, "color": 0, "gray": 0})
    epochs = [views_of(data, number) for number in range(4)]
    assert sorted(epochs[0]) == sorted(epochs[2]) != sorted(epochs[1]) == sorted(epochs[3])
    assert len({tuple(epoch) for epoch in epochs}) == 4
    plain = DataSpec(source="digits", image_size=16, workers=0, augment={"color": 0, "gray": 0})
    assert views_of(plain, 1) == epochs[1]
    assert len(set(views_of(plain, 2)) & set(epochs[2])) < 20, "by chance, in images of 8 x 8 pixels"


def test_digests_do_not_depend_on_workers_and_name_the_pixels(path):
    data = DataSpec(source="digits", image_size=16, workers=2, augment={"views": 1, "color": 0})
    assert views_of(data, 0) == views_of(data.model_copy(update={"workers": 0}), 0)
    batch = Batch.with_digests(
        [(torch.full((3, 2, 2), shade, dtype=torch.uint8), 0, ()) for shade in (1, 2, 1)]
    )
    first, second, third = batch.digests.tolist()
    assert first == third != second


def test_a_stream_names_its_views_but_does_not_repeat_them(tmp_path):
    write_shards(tmp_path)
    data = {"source": "wds/toy", "root": str(tmp_path), "val": "validation", "image_size": 16, "workers": 0}
    spec = DataSpec(**data)
    batches = TrainingBatches(from_timm(spec, "toy", 0).train, spec, 3, seed=0, digests=True)
    for batch in batches.epoch(0):
        expected = Batch.with_digests([(view, 0, ()) for view in batch.pixels])
        assert batch.digests.tolist() == expected.digests.tolist()
    again = DataSpec(**data, augment={"views": 1})
    with pytest.raises(SpecError, match=r"data.augment.views: the images of the stream(.|\n)*Leave it out"):
        TrainingBatches(from_timm(again, "toy", 0).train, again, 3, seed=0)


# The spec


def test_mixup_and_a_cache_contradict_each_other(path, tmp_path):
    with pytest.raises(SpecError, match=r"cache.folder needs objective.mixup: false, since a mixed image"):
        load_spec(path, [f"cache.folder={tmp_path}"])


def test_a_cache_without_views_that_come_again_is_warned_of(path, tmp_path, caplog):
    built(load_spec(path, [f"cache.folder={tmp_path}", "objective.mixup=false"]))
    assert "helps only another run with the same seed; set data.augment.views" in caplog.text


# Whole runs


@pytest.fixture(scope="module")
def plain(path, tmp_path_factory):
    """A run without a cache."""
    return run(load_spec(path, MOVING), output=tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def cached(path, tmp_path_factory):
    """The same with one."""
    root = tmp_path_factory.mktemp("cached")
    return run(load_spec(path, [*MOVING, f"cache.folder={root}/cache"]), output=root / "run")


def test_a_run_with_a_cache_is_the_run_without_in_fewer_flops(plain, cached):
    ours, theirs = (
        lines(report.folder, ["cache_hits", "flops_spent", "flops_saved"]) for report in (cached, plain)
    )
    for line, other in zip(ours, theirs, strict=True):
        assert line == pytest.approx(other, rel=1e-6)
    found = hits(cached.folder)
    assert max(*found[:4], *found[6:8]) < 0.02, "first sight, but for views that are alike"
    assert min(found[4:6]) > 0.8
    assert all(0.3 < share < 0.7 for share in found[8:]), "of two batches of the epoch before"
    assert cached.flops["saved"] > plain.flops["saved"] + 0.01
    layers = [line["target_layer"] for line in ours]
    spared = sum(
        share * 320 * 2 * macs
        for share, macs in zip(found, map(teacher_macs(cached).__getitem__, layers), strict=True)
    )
    told = plain.flops["spent_by_part"]["teacher"] - cached.flops["spent_by_part"]["teacher"]
    assert told == pytest.approx(spared)


def teacher_macs(report):
    """MACs per image, by the target layer counted from 1."""
    costs = built(load_spec(report.folder / "spec.yaml")).costs
    return {layer + 1: macs for layer, macs in enumerate(costs.teachers["teacher"].teacher)}


def test_without_parts_of_batches_it_is_the_same_bit_for_bit(path, tmp_path):
    whole = [*MOVING[1:3], "curriculum={scheduler: fixed, layer: 2}"]
    whole += ["train={duration: 6st, batch_size: 479, log_every: 1}"]  # all images in each epoch
    run(load_spec(path, whole), output=tmp_path / "plain")
    run(load_spec(path, [*whole, f"cache.folder={tmp_path}/cache"]), output=tmp_path / "run")
    ours, theirs = (
        lines(tmp_path / name, ["cache_hits", "flops_spent", "flops_saved"]) for name in ("run", "plain")
    )
    assert ours == theirs
    assert hits(tmp_path / "run")[3:] == [1, 1, 1]


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit_ledger_and_hits_included(cached, path):
    folder, before = cached.folder, lines(cached.folder)
    student = (folder / "student/model.safetensors").read_bytes()
    spec = load_spec(path, [*MOVING, f"cache.folder={folder.parent}/cache"])
    (folder / "summary.json").unlink()  # or there would be nothing to do
    report = run(spec, output=folder, resume="step-00000003")
    assert lines(folder) == before
    assert (folder / "student/model.safetensors").read_bytes() == student
    assert report.flops == cached.flops


KILLED = """\
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_cache_files import dies_in
from leapcore import load_spec, run
dies_in(7, 2000)
run(load_spec(sys.argv[2], sys.argv[4:]), output=sys.argv[3])
"""


def test_a_run_killed_in_the_midst_of_a_write_goes_on_as_if_it_had_not_been(cached, path, tmp_path):
    overrides = [*MOVING, f"cache.folder={tmp_path}/cache"]
    here = os.path.dirname(__file__)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, os.path.dirname(here)])}
    command = [sys.executable, "-c", KILLED, here, path, tmp_path / "run", *overrides]
    assert subprocess.run(command, env=env, capture_output=True).returncode == -signal.SIGKILL
    assert (tmp_path / "run/checkpoints/latest").read_text() in ("step-00000003", "step-00000006")
    run(load_spec(path, overrides), output=tmp_path / "run", resume="latest")
    assert lines(tmp_path / "run") == lines(cached.folder)


def test_another_run_with_the_same_seed_computes_nothing(cached, path, tmp_path):
    spec = load_spec(path, [*MOVING, f"cache.folder={cached.folder.parent}/cache", "optimizer.lr=0.002"])
    report = run(spec, output=tmp_path / "run")
    assert hits(tmp_path / "run") == [1] * 12
    assert report.flops["spent_by_part"]["teacher"] == 0


def test_a_resumed_run_may_leave_the_cache_but_not_change_its_views(cached, plain, path, caplog):
    (plain.folder / "summary.json").unlink()
    spec = load_spec(path, [*MOVING, "data.augment.views=2"])
    with pytest.raises(CheckpointError, match=r"data.augment.views: 1 -> 2: the course of the batches"):
        run(spec, output=plain.folder, resume="step-00000003")
    other = [f"cache={{folder: {plain.folder.parent}/cache, limit_gb: 1}}"]
    run(load_spec(path, [*MOVING, *other]), output=plain.folder, resume="step-00000009")
    assert "it decides what is computed again, not what is learned" in caplog.text
    assert "cache_hits" in lines(plain.folder)[-1]


SEVERAL = "teachers={a: {backbone: vit, weights: 'asset:digits-vit'}, b: {backbone: vit, weights: 'asset:digits-vit', curriculum: {scheduler: fixed, layer: 3}}}"
KINDS = {
    "layer+last": ["objective.target=layer+last"],
    "all": ["objective.target=all", "curriculum={scheduler: fixed}"],
    "embedding": ["objective.patch_embedding=0.1", "train.precision=bfloat16"],
    "accumulate": ["engine.accumulate=2"],
    "calibrated": ["curriculum={scheduler: cka, start: calibrate, threshold: 2, max_time_per_layer: 5st}"],
    "several": [SEVERAL],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_target_can_be_cached(path, tmp_path, kind):
    source = path
    if kind == "several":
        source = tmp_path / "spec.yaml"
        source.write_text("\n".join(line for line in SPEC.splitlines() if not line.startswith("teacher:")))
    overrides = [*MOVING, "train.duration=6st", *KINDS[kind]]
    plain = run(load_spec(source, overrides), output=tmp_path / "plain")
    report = run(load_spec(source, [*overrides, f"cache.folder={tmp_path}/cache"]), output=tmp_path / "run")
    names = ["cache_hits", "cache_hits/a", "cache_hits/b"]
    ours, theirs = (
        lines(tmp_path / name, [*names, "flops_spent", "flops_saved"]) for name in ("run", "plain")
    )
    for line, other in zip(ours, theirs, strict=True):
        assert line == pytest.approx(other, rel=1e-5)
    told = lines(tmp_path / "run")[4]
    assert all(told[name] > 0.8 for name in (names[1:] if kind == "several" else names[:1]))
    assert report.flops["saved"] > plain.flops["saved"]
    assert report.flops["spent_by_part"]["calibration"] == plain.flops["spent_by_part"]["calibration"]
