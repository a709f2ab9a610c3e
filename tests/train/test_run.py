"""Whole runs: the quickstart in a short form."""

import json
import math

import pytest
import torch
from PIL import Image
from rich.console import Console
from shared import built, events_for

from leapcore import hookimpl, load_spec, run
from leapcore.compat import import_timm
from leapcore.core.flops import count_layer_macs
from leapcore.core.lr import RestartingCosine
from leapcore.data.sources import ImageSplits, image_splits
from leapcore.errors import DataError, DivergedError, Interrupted, OutputError, ResourceError, SpecError
from leapcore.export.student import export_student
from leapcore.listeners.console import ConsoleListener
from leapcore.plugins.events import TargetChange
from leapcore.plugins.loader import installed_plugins
from leapcore.runs.folder import RunFolder
from leapcore.train.loop import Loop

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
    def __init__(self, stop_at=None, error=None):
        self.metrics, self.changes, self.starts, self.reports = [], [], [], []
        self.stop_at, self.error = stop_at, error or KeyboardInterrupt()

    @hookimpl
    def leapcore_run_started(self, start):
        self.starts.append(start)

    @hookimpl
    def leapcore_metrics(self, step, metrics):
        self.metrics.append((step, metrics))
        if self.stop_at is not None and step >= self.stop_at:
            raise self.error

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
    assert names == {
        "spec.yaml",
        "start.json",
        "metrics.jsonl",
        "report.html",
        "summary.json",
        "tensorboard",
        "student",
        "checkpoints",
    }
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
        "linear_top5",
        "teacher_knn",
        "teacher_linear",
        "teacher_linear_best",
        "teacher_linear_top5",
    }
    assert summary["accuracy"]["teacher_knn"] > 0.95
    assert all(0 <= value <= 1 for value in summary["accuracy"].values())
    assert summary["time"]["seconds"] > summary["time"]["training_seconds"] > 0
    assert [change["target"] for change in summary["curriculum"]] == [1, 2, 3, 4, 5]
    moved = summary["curriculum"][1]
    assert (moved["step"], moved["previous"], moved["target"]) == (10, 1, 2)
    assert (moved["reason"], moved["teacher"]) == ("time is up after 10st", "teacher")
    assert 0 < moved["alignment"] < 1
    assert moved["flops_saved"] > summary["flops"]["saved"], "deeper targets save less"


def test_the_flops_in_the_summary_are_those_of_the_steps_taken(finished):
    report, recorder, _ = finished
    (start,) = recorder.starts
    last, student, images = start.teachers["teacher"].macs, 3 * start.student.macs, 44 * 64
    assert report.flops["baseline"] == 2 * images * (last + student)
    assert report.flops["spent"] == sum(report.flops["spent_by_part"].values())
    assert report.flops["spent_by_part"]["student"] == 2 * images * student
    teacher = installed_plugins().get("backbones", "vit")(
        model=None, weights="asset:digits-vit", image_size=32, options={}
    )
    prefix = count_layer_macs(teacher, (3, 32, 32)).prefixes
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
    assert steps[0]["lr"] == pytest.approx(3e-3), "the fifth step of five in the warm-up"
    assert [line["step"] for line in told if "knn" in line] == [22, 44]
    assert [line["target_layer"] for line in steps] == [1, 1, 2, 2, 3, 3, 4, 4, 5], "layers that were used"
    assert recorder.changes[0] == TargetChange(0, 0, 1, "start")
    assert recorder.reports == [report]


def test_the_load_line_of_the_summary_loads_the_student(finished):
    report, _, _ = finished
    names = {}
    exec(report.student["load"], names)
    assert sum(p.numel() for p in names["model"].parameters()) == report.student["parameters"]


def test_plain_timm_gives_the_same_features_as_the_trained_student(tmp_path):
    loop = _loop(*SHORT, "train.duration=3st")
    loop.fit()
    parts = loop.parts
    export_student(parts.student, tmp_path)
    plain = import_timm().create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        (ours,) = parts.student.eval()(images, [5])
        assert torch.equal(plain.forward_features(images)[:, 1:], ours.tokens)
        assert torch.equal(plain(images), ours.pooled)


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _metrics(folder):
    timing = {"seconds", "images_per_second", "data_wait"}
    return [{key: value for key, value in line.items() if key not in timing} for line in _lines(folder)]


def test_waiting_for_images_is_told_as_a_share_of_the_time(finished):
    waits = [line["data_wait"] for line in _lines(finished[0].folder) if "data_wait" in line]
    assert waits
    assert all(0 < wait < 1 for wait in waits)


def test_the_same_seed_gives_identical_metrics_and_another_does_not(finished, tmp_path):
    report, _, _ = finished
    torch.rand(5)
    again = run(load_spec("quickstart", SHORT), output=tmp_path / "again")
    other = run(load_spec("quickstart", [*SHORT, *NO_EVALUATION, "train.seed=1"]), output=tmp_path / "other")
    assert _metrics(again.folder) == _metrics(report.folder)
    assert again.accuracy == report.accuracy
    assert _metrics(other.folder)[1]["loss"] != _metrics(report.folder)[1]["loss"]


def test_calibration_starts_at_the_best_aligned_layer_and_is_paid_for():
    loop = _loop("curriculum.start=calibrate", "train.duration=1st")
    scores = []
    teacher = loop.parts.teachers[0]
    measure = teacher.alignment
    teacher.alignment = lambda *tokens: scores.append(measure(*tokens)) or scores[-1]
    loop.fit()
    teacher, student = count_layer_macs(teacher.provider).until(*range(12)), loop.parts.student_facts.macs
    cka = 64 * 16 * 72**2 * 5 // 2
    assert loop.changes[0].target == torch.stack(scores[:12]).argmax().item() + 1
    assert loop.parts.ledger.macs["calibration"] == 64 * (teacher + 12 * student) + 12 * cka
    assert loop.parts.ledger.macs["alignment"] == cka


def test_no_teacher_block_deeper_than_the_target_runs_in_a_run():
    loop = _loop("curriculum.max_time_per_layer=2st", "curriculum.threshold=2", "train.duration=6st")
    calls = [0] * 12
    for index, block in enumerate(loop.parts.teachers[0].provider.model.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    loop.fit()
    assert calls == [6, 4, 2] + [0] * 9


def test_the_rate_restarts_in_the_step_after_an_advance():
    restart = ["optimizer.warmup=2st", "optimizer.restart={peak: full}", "train.log_every=1"]
    loop = _loop(
        "curriculum.max_time_per_layer=6st", "curriculum.threshold=2", "train.duration=12st", *restart
    )
    recorder = Recorder()
    loop.events = events_for(recorder)
    loop.fit()
    used = [metrics["lr"] / 3e-3 for _, metrics in recorder.metrics]
    expected = RestartingCosine(12, 2)
    assert used[:6] == pytest.approx([expected(step) for step in range(6)])
    expected.advance(5)
    assert used[6:11] == pytest.approx([expected(step) for step in range(6, 11)])
    assert used[6] > used[5]


def test_a_sampled_score_is_measured_on_the_first_images_and_booked_so():
    loop = _loop("curriculum.sample_images=16", "curriculum.measure_every=2", "train.duration=4st")
    loop.fit()
    assert loop.parts.ledger.macs["alignment"] == 2 * 16 * 16 * 72**2 * 5 // 2


def test_the_projector_is_reset_at_an_advance_and_sigreg_is_reported():
    options = ["objective={reset_projector: true, sigreg: 0.01, cls_head: separate}", "train.log_every=1"]
    loop = _loop(
        "curriculum.max_time_per_layer=2st", "curriculum.threshold=2", "train.duration=3st", *options
    )
    recorder = Recorder()
    loop.events = events_for(recorder)
    resets = []
    match = loop.parts.teachers[0].match
    reset = match.reset_projectors
    match.reset_projectors = lambda: resets.append(loop.step) or reset()
    loop.fit()
    assert resets == [2]
    assert all(metrics["sigreg_loss"] > 0 for _, metrics in recorder.metrics)


def test_few_tokens_for_the_width_are_warned_of(caplog):
    _loop("curriculum.sample_images=8", "train.duration=1st").fit()
    assert "measured on 128 tokens of width 72: so few make it too high" in caplog.text
    caplog.clear()
    _loop("curriculum.sample_images=8", "curriculum.unbiased=true", "train.duration=1st").fit()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "curriculum",
    [
        "{scheduler: linear}",
        "{scheduler: random, every: 1st}",
        "{scheduler: plateau}",
        "{scheduler: cosine}",
        "{scheduler: steps, at: {0st: 2, 3st: 4}}",
    ],
)
def test_every_scheduler_runs(curriculum):
    loop = _loop(f"curriculum={curriculum}", "train.duration=6st")
    loop.fit()
    assert loop.step == 6
    assert loop.changes[0].step == 0


def _loop(*options):
    return Loop(built(load_spec("quickstart", [*options, *NO_EVALUATION])))


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
    seen = _OutputTypes()
    report = run(spec, output=tmp_path / "run", listeners=[seen])
    expected = torch.bfloat16 if options == ["train.precision=bfloat16"] else torch.float32
    assert seen.types == {expected}
    losses = [line["loss"] for line in _metrics(report.folder) if "loss" in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert losses[1] < losses[0]


def test_a_16_bit_run_evaluates_its_teacher_too(tmp_path):
    options = ["train.precision=bfloat16", "train.duration=2st", "evaluate={teacher: true, linear: never}"]
    accuracy = run(load_spec("quickstart", [*SHORT, *options]), output=tmp_path / "run").accuracy
    assert accuracy["teacher_knn"] > 0.9
    assert accuracy["knn"] > 0.1


class _OutputTypes:
    """Notes the precision that linear layers compute in."""

    def __init__(self):
        self.types = set()

    @hookimpl
    def leapcore_run_started(self):
        note = torch.nn.modules.module.register_module_forward_hook
        self._hook = note(self._note)

    def _note(self, module, _, output):
        if isinstance(module, torch.nn.Linear) and output.device.type != "meta":  # where shapes are asked for
            self.types.add(output.dtype)

    @hookimpl
    def leapcore_run_finished(self):
        self._hook.remove()


def test_a_finished_run_is_not_overwritten_unless_asked(finished):
    report, _, spec = finished
    before = (report.folder / "summary.json").read_text()
    with pytest.raises(
        OutputError,
        match="already holds a finished run\nGo on with it with --resume, replace it with --overwrite",
    ):
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


def test_ctrl_c_in_the_final_evaluation_loses_only_the_accuracy(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("leapcore.train.run.final_accuracies", stop)
    spec, recorder = load_spec("quickstart", [*SHORT, "train.duration=2st"]), Recorder()
    with pytest.raises(Interrupted, match=r"after the last step; the student is trained"):
        run(spec, output=tmp_path / "run", listeners=[recorder])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()
    assert recorder.reports[0].status == "interrupted"


def test_missing_validation_images_are_told_before_the_training(tmp_path, monkeypatch):
    found = image_splits(load_spec("quickstart"))
    monkeypatch.setattr("leapcore.train.build.open_images", lambda data, seed: ImageSplits(found.train, []))
    with pytest.raises(DataError, match="there are no validation images"):
        run(load_spec("quickstart", SHORT), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_failure_in_mid_run_keeps_the_student(tmp_path):
    recorder = Recorder(stop_at=10, error=OSError("no space left on device"))
    with pytest.raises(ResourceError, match=r"the disk is full after 10 steps .*no space left"):
        run(load_spec("quickstart", SHORT), output=tmp_path / "run", listeners=[recorder])
    told = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (told["status"], told["steps"]) == ("failed", 10)
    assert told["error"].startswith("the disk is full after 10 steps")
    assert (tmp_path / "run" / "student" / "model.safetensors").exists()
    assert recorder.reports[0].steps == 10


def test_a_loss_that_is_not_finite_stops_the_run_with_a_remedy(tmp_path):
    spec = load_spec("quickstart", [*SHORT, "optimizer.lr=1e30", "optimizer.clip=0", "optimizer.warmup=0st"])
    with pytest.raises(
        DivergedError,
        match=r"not finite in 3 steps in a row, up to step 4 \(batch 4 of epoch 1, target layer 1, learning rate",
    ):
        run(spec, output=tmp_path / "run")


def test_an_optimizer_that_cannot_be_used_here_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"optimizer\.name: 'bnbadam' cannot be used here"):
        run(load_spec("quickstart", ["optimizer.name=bnbadam"]), output=tmp_path / "run")


def test_a_start_killed_while_overwriting_does_not_lose_the_earlier_run(tmp_path):
    spec = load_spec("quickstart", [*SHORT, *NO_EVALUATION, "train.duration=1st"])
    run(spec, output=tmp_path)
    summary = (tmp_path / "summary.json").read_text()
    RunFolder(tmp_path, overwrite=True).open(spec)  # and killed here
    with pytest.raises(Interrupted):
        run(spec, output=tmp_path, overwrite=True, listeners=[_FailsAtStart()])
    assert (tmp_path / "summary.json").read_text() == summary


def test_a_failed_start_leaves_nothing_that_blocks_the_corrected_one(tmp_path):
    with pytest.raises(SpecError, match="start is 13"):
        run(load_spec("quickstart", ["curriculum.start=13"]), output=tmp_path / "a")
    with pytest.raises(Interrupted, match="before the first step; nothing was left behind"):
        run(load_spec("quickstart", SHORT), output=tmp_path / "b", listeners=[_FailsAtStart()])
    assert list(tmp_path.iterdir()) == []


class _FailsAtStart:
    @hookimpl
    def leapcore_run_started(self):
        raise KeyboardInterrupt


def test_a_failed_start_with_overwrite_brings_the_earlier_run_back(finished):
    report, _, spec = finished
    before = {path: path.stat().st_size for path in report.folder.rglob("*") if path.is_file()}
    with pytest.raises(Interrupted):
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
    assert "no labels that differ: accuracy is not evaluated" in caplog.text


def test_a_target_beside_the_last_layer_runs_the_whole_teacher_and_stops_one_short():
    loop = _loop(
        "objective.target=layer+last",
        "curriculum.start=10",
        "curriculum.max_time_per_layer=2st",
        "curriculum.threshold=2",
        "train.duration=6st",
    )
    calls = [0] * 12
    (teacher,) = loop.parts.teachers
    for index, block in enumerate(teacher.provider.model.blocks):
        block.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    loop.fit()
    assert calls == [6] * 12
    assert [change.target for change in loop.changes] == [10, 11]
    macs = count_layer_macs(teacher.provider, norm=teacher.match.target_norm)
    assert loop.parts.ledger.macs["teacher"] == 6 * 64 * (macs.whole + macs.ends[0])


def test_all_layers_at_once_have_no_curriculum_and_save_nothing():
    options = ["objective={target: all, reduction: sum}", "curriculum={scheduler: fixed}"]
    loop = _loop(*options, "train.duration=3st")
    loop.fit()
    (teacher,) = loop.parts.teachers
    assert [layer + 1 for layer in teacher.match.teacher_layers(11)] == [2, 4, 6, 8, 10, 12]
    assert len(teacher.match.projectors) == 6
    assert loop.parts.ledger.macs["alignment"] == 0
    assert loop.parts.ledger.saved == 0


def test_the_patch_embedding_loss_is_reported_and_its_second_convolution_booked():
    loop = _loop("objective.patch_embedding=0.1", "train.duration=2st", "train.log_every=1")
    recorder = Recorder()
    loop.events = events_for(recorder)
    loop.fit()
    assert all(metrics["embedding_loss"] > 0 for _, metrics in recorder.metrics)
    (teacher,) = loop.parts.teachers
    macs = count_layer_macs(teacher.provider, norm=teacher.match.target_norm)
    assert loop.parts.ledger.macs["teacher"] == 2 * 64 * (macs.until(0) + 16 * 72 * 3 * 8 * 8)
    plain = _loop("train.duration=1st").parts.ledger.student_macs
    added = 16 * 48 * 3 * 8 * 8 + 16 * 48 * 72 + 5 * 16 * 72  # convolution, head, norm
    assert loop.parts.ledger.student_macs - plain == pytest.approx(added)


def test_several_targets_that_advance_together_restart_the_rate_once(tmp_path):
    curriculum = "{scheduler: cka, threshold: 2, start: first, max_time_per_layer: 1ep}"
    text = TWO_TEACHERS.replace("    curriculum: {scheduler: steps, at: {0st: 1, 4st: 3}}\n", "")
    (tmp_path / "two.yaml").write_text(text)
    restart = "optimizer.restart={warmup: 1st, peak_decay: 0.1}"
    overrides = [
        f"curriculum={curriculum}",
        restart,
        "train.duration=2ep",
        "train.log_every=1",
        *NO_EVALUATION,
    ]
    loop = Loop(built(load_spec(tmp_path / "two.yaml", overrides)))
    recorder = Recorder()
    loop.events = events_for(recorder)
    loop.fit()
    second = [metrics["lr"] for step, metrics in recorder.metrics if 22 < step <= 26]
    assert max(second) == pytest.approx(0.9e-3, rel=0.02)


def test_a_fault_of_one_of_several_teachers_names_it(tmp_path):
    (tmp_path / "two.yaml").write_text(TWO_TEACHERS.replace("4st: 3", "4st: 4"))
    with pytest.raises(
        SpecError, match=r"^teachers.flat: curriculum.at is 4, but the curriculum chooses from"
    ):
        run(load_spec(tmp_path / "two.yaml"), output=tmp_path / "run")


TWO_TEACHERS = """
name: two
teachers:
  deep: {backbone: vit, weights: "asset:digits-vit"}
  flat:
    backbone: vit
    model: vit_tiny_patch16_224
    options: {patch_size: 8, embed_dim: 36, depth: 3, num_heads: 3}
    weight: 0.5
    curriculum: {scheduler: steps, at: {0st: 1, 4st: 3}}
student: {backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3}}
data: {source: digits, image_size: 32, workers: 0}
curriculum: {scheduler: cka, threshold: 2, start: first, max_time_per_layer: 2st}
optimizer: {name: adamw, lr: 1.0e-3}
train: {duration: 6st, batch_size: 64, log_every: 2}
evaluate: {knn: end, linear: never, teacher: true}
"""


def test_two_teachers_have_a_curriculum_each(tmp_path, capsys):
    (tmp_path / "two.yaml").write_text(TWO_TEACHERS)
    spec = load_spec(tmp_path / "two.yaml")
    recorder = Recorder()
    console = ConsoleListener(Console(width=120))
    report = run(spec, output=tmp_path / "run", listeners=[recorder, console])
    walks = {
        name: [change.target for change in report.curriculum if change.teacher == name]
        for name in ("deep", "flat")
    }
    assert walks == {"deep": [1, 2, 3, 4], "flat": [1, 3]}
    assert {"knn", "teacher_knn/deep", "teacher_knn/flat"} == report.accuracy.keys()
    assert report.teachers["flat"]["layers"] == 3
    _, last = [told for told in recorder.metrics if "loss" in told[1]][-1]
    assert (last["target_layer/deep"], last["target_layer/flat"]) == (3, 3)
    parts = [last[f"patch_loss/{n}"] + 0.05 * last[f"cls_loss/{n}"] for n in ("deep", "flat")]
    assert last["loss"] == pytest.approx(parts[0] + 0.5 * parts[1], rel=1e-5)
    assert "alignment/deep" in last
    assert "alignment/flat" not in last
    shown = capsys.readouterr().out
    assert "step 4  flat: layer  1 ->  3  by the clock" in shown
    assert "two" in shown
    assert "target layers of deep" in shown
    again = load_spec(tmp_path / "run" / "spec.yaml")
    assert again == spec
