"""Whole runs: the quickstart in a short form."""

import json
import math

import pytest
import torch
from PIL import Image

from leapcore import hookimpl, load_spec, run
from leapcore.compat import import_timm
from leapcore.core.flops import count_all_prefix_macs
from leapcore.engine.folder import RunFolder
from leapcore.engine.loop import Loop
from leapcore.engine.setup import build
from leapcore.errors import Interrupted, OutputError, SpecError
from leapcore.events import TargetChange
from leapcore.export import export_student
from leapcore.plugins import installed_plugins

# Two epochs of 22 steps, in which the time limit of 10 steps moves the target four times.
SHORT = [
    "train.duration=2ep",
    "curriculum.max_time_per_layer=10st",
    "curriculum.threshold=2",
    "optimizer.warmup=5st",
    "evaluate.knn=1ep",
]
NO_EVALUATION = ["evaluate.knn=never", "evaluate.linear=never"]


class Recorder:
    def __init__(self, stop_at=None):
        self.metrics, self.changes, self.starts, self.reports = [], [], [], []
        self.stop_at = stop_at

    @hookimpl
    def leapcore_run_started(self, start):
        self.starts.append(start)

    @hookimpl
    def leapcore_metrics(self, step, metrics):
        self.metrics.append((step, metrics))
        if self.stop_at is not None and step >= self.stop_at:
            raise KeyboardInterrupt

    @hookimpl
    def leapcore_target_changed(self, event):
        self.changes.append(event)

    @hookimpl
    def leapcore_run_finished(self, report):
        self.reports.append(report)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "short"
    recorder = Recorder()
    spec = load_spec("quickstart", SHORT)
    return run(spec, output=folder, listeners=[recorder]), recorder, spec


def test_the_folder_holds_all_results(finished):
    report, _, spec = finished
    names = {path.name for path in report.folder.iterdir()}
    assert names == {"spec.yaml", "metrics.jsonl", "summary.json", "tensorboard", "student"}
    assert load_spec(report.folder / "spec.yaml") == spec
    assert list((report.folder / "tensorboard").glob("events.out.tfevents.*"))


def test_the_summary_says_what_was_achieved_and_spent(finished):
    report, _, _ = finished
    summary = json.loads((report.folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 44)
    assert set(summary["accuracy"]) == {
        "knn",
        "linear",
        "linear_best",
        "teacher_knn",
        "teacher_linear",
        "teacher_linear_best",
    }
    assert summary["accuracy"]["teacher_knn"] > 0.95
    assert all(0 <= value <= 1 for value in summary["accuracy"].values())
    assert summary["time"]["seconds"] > summary["time"]["training_seconds"] > 0
    assert [change["target"] for change in summary["curriculum"]] == [1, 2, 3, 4, 5]
    assert summary["curriculum"][1] == {"step": 10, "previous": 1, "target": 2, "reason": "time is up"}


def test_the_flops_in_the_summary_are_those_of_the_steps_taken(finished):
    report, recorder, _ = finished
    (start,) = recorder.starts
    last, student, images = start.teacher.macs, 3 * start.student.macs, 44 * 64
    assert report.flops["baseline"] == 2 * images * (last + student)
    assert report.flops["spent"] == sum(report.flops["spent_by_part"].values())
    assert report.flops["spent_by_part"]["student"] == 2 * images * student
    teacher = installed_plugins().get("backbones", "vit")(
        model=None, weights="asset:digits-vit", image_size=32, options={}
    )
    prefix = count_all_prefix_macs(teacher, (3, 32, 32))
    expected = 2 * 64 * (10 * sum(prefix[:4]) + 4 * prefix[4])  # ten steps at layers 1 to 4, four at 5
    assert report.flops["spent_by_part"]["teacher"] == expected
    assert report.flops["saved"] == pytest.approx(1 - report.flops["spent"] / report.flops["baseline"])
    assert report.flops["saved"] > 0.35


def test_metrics_are_written_and_told_alike(finished):
    report, recorder, _ = finished
    lines = [json.loads(line) for line in (report.folder / "metrics.jsonl").read_text().splitlines()]
    told = [{"step": step, **metrics} for step, metrics in recorder.metrics]
    assert [line for line in lines if "event" not in line] == told
    steps = [line for line in told if "loss" in line]
    assert [line["step"] for line in steps] == [5, 10, 15, 20, 25, 30, 35, 40, 44]
    assert all(math.isfinite(line["loss"]) and 0 <= line["alignment"] <= 1 for line in steps)
    assert steps[0]["lr"] == pytest.approx(3e-3)
    assert [line["step"] for line in told if "knn" in line] == [22, 44]
    assert recorder.changes[0] == TargetChange(0, 0, 1, "start")
    assert recorder.reports == [report]


def test_the_load_line_of_the_summary_loads_the_student(finished):
    report, _, _ = finished
    names = {}
    exec(report.student["load"], names)
    assert sum(p.numel() for p in names["model"].parameters()) == report.student["parameters"]


def test_plain_timm_gives_the_same_features_as_the_trained_student(tmp_path):
    parts = build(load_spec("quickstart", [*SHORT, "train.duration=3st"]))
    Loop(parts, _Nobody()).fit()
    export_student(parts.student, tmp_path)
    plain = import_timm().create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        (ours,) = parts.student.eval()(images, [5])
        assert torch.equal(plain.forward_features(images)[:, 1:], ours.tokens)
        assert torch.equal(plain(images), ours.pooled)


class _Nobody:
    def __getattr__(self, name):
        return lambda **_: None


def _metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timing = {"seconds", "images_per_second"}
    return [{key: value for key, value in line.items() if key not in timing} for line in lines]


def test_the_same_seed_gives_identical_metrics_and_another_does_not(finished, tmp_path):
    report, _, _ = finished
    torch.rand(5)
    again = run(load_spec("quickstart", SHORT), output=tmp_path / "again")
    other = run(load_spec("quickstart", [*SHORT, *NO_EVALUATION, "train.seed=1"]), output=tmp_path / "other")
    assert _metrics(again.folder) == _metrics(report.folder)
    assert again.accuracy == report.accuracy
    assert _metrics(other.folder)[1]["loss"] != _metrics(report.folder)[1]["loss"]


def test_calibration_chooses_the_start_and_is_paid_for(tmp_path):
    options = ["curriculum.start=calibrate", "train.duration=2st", *NO_EVALUATION]
    report = run(load_spec("quickstart", options), output=tmp_path / "run")
    assert report.flops["spent_by_part"]["calibration"] > 0
    assert 1 <= report.curriculum[0].target <= 12


def test_the_fixed_baseline_saves_exactly_nothing(tmp_path):
    options = ["curriculum.scheduler=fixed", "train.duration=3st", *NO_EVALUATION]
    report = run(load_spec("quickstart", options), output=tmp_path / "run")
    assert report.flops["saved"] == 0
    assert [change.target for change in report.curriculum] == [12]
    assert report.accuracy == {}


@pytest.mark.parametrize(
    "options",
    [["engine.zero_stage=1"], ["engine.zero_stage=2"], ["train.precision=bfloat16"], ["optimizer.name=lars"]],
)
def test_zero_stages_bfloat16_and_lars_train(tmp_path, options):
    spec = load_spec("quickstart", [*SHORT, *NO_EVALUATION, "train.duration=8st", *options])
    report = run(spec, output=tmp_path / "run")
    losses = [line["loss"] for line in _metrics(report.folder) if "loss" in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert losses[1] < losses[0]


def test_a_finished_run_is_not_overwritten_unless_asked(finished):
    report, _, spec = finished
    before = (report.folder / "summary.json").read_text()
    with pytest.raises(OutputError, match="already holds a finished run\nReplace it with --overwrite"):
        run(spec, output=report.folder)
    assert (report.folder / "summary.json").read_text() == before


def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match="stopped after 10 of 44 steps") as caught:
        run(load_spec("quickstart", SHORT), output=folder, listeners=[Recorder(stop_at=10)])
    assert caught.value.exit_code == 130
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    weights = f"student.weights={folder}/student"
    assert f"--set {weights}" in caught.value.remedy
    with pytest.raises(OutputError, match="an interrupted run"):
        run(load_spec("quickstart", SHORT), output=folder)
    onward = load_spec("quickstart", [*SHORT, *NO_EVALUATION, "train.duration=1st", weights])
    assert run(onward, output=tmp_path / "onward").status == "finished"


def test_a_failed_start_leaves_nothing_that_blocks_the_corrected_one(tmp_path):
    with pytest.raises(SpecError, match="start is 13"):
        run(load_spec("quickstart", ["curriculum.start=13"]), output=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(load_spec("quickstart", SHORT), output=tmp_path / "b", listeners=[_FailsAtStart()])
    assert list(tmp_path.iterdir()) == []


class _FailsAtStart:
    @hookimpl
    def leapcore_run_started(self):
        raise KeyboardInterrupt


def test_a_failed_start_with_overwrite_brings_the_earlier_run_back(finished):
    report, _, spec = finished
    before = {path: path.stat().st_size for path in report.folder.rglob("*") if path.is_file()}
    with pytest.raises(KeyboardInterrupt):
        run(spec, output=report.folder, overwrite=True, listeners=[_FailsAtStart()])
    assert {path: path.stat().st_size for path in report.folder.rglob("*") if path.is_file()} == before


def test_folders_that_are_no_runs_are_left_alone(tmp_path):
    (tmp_path / "spec.yaml").write_text("my own")
    with pytest.raises(OutputError, match="holds other files, not a run"):
        RunFolder(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        RunFolder(tmp_path / "spec.yaml", overwrite=True)
    assert (tmp_path / "spec.yaml").read_text() == "my own"


def test_overwriting_removes_a_runs_own_files_only(tmp_path):
    spec = load_spec("quickstart", [*SHORT, *NO_EVALUATION, "train.duration=1st"])
    run(spec, output=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run(spec, output=tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / ".replaced").exists()


def test_images_without_classes_are_distilled_but_not_evaluated(tmp_path, caplog):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for index in range(4):
            Image.new("RGB", (16, 16), (60 * index, 0, 0)).save(tmp_path / split / f"{index}.png")
    places = ["data.source=folder", f"data.train={tmp_path}/train", f"data.val={tmp_path}/val"]
    small = ["train.batch_size=4", "train.duration=2ep", "evaluate.knn=1ep"]
    report = run(load_spec("quickstart", [*places, *small]), output=tmp_path / "run")
    assert report.accuracy == {}
    assert "same label: accuracy is not evaluated" in caplog.text
