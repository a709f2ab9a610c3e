"""A run that was interrupted goes on as if it had not been."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from leapcore import hookimpl, load_spec, run
from leapcore.checkpoints.files import Checkpoint, Checkpoints
from leapcore.errors import CheckpointError, Interrupted, OutputError, SpecError
from leapcore.runs.folder import RunFolder
from leapcore.runs.lock import FolderLock
from leapcore.spec.engine import CheckpointSpec
from leapcore.tools.export import export_run

# Two epochs of 22 steps with all that has a state: targets that move, a rate that restarts with them, a
# projector that is reset, dropped paths, mixup, and reports that do not fall on checkpoints.
RICH = [
    "train.duration=30st",
    "train.log_every=4",
    "checkpoint={every: 6st, keep: 9}",
    "curriculum={scheduler: cka, max_time_per_layer: 5st, threshold: 0.9, ema: 0.5}",
    "optimizer={name: adamw, lr: 0.001, warmup: 1st, restart: {peak: gap}}",
    "objective={reset_projector: true, sigreg: 0.01}",
    "student.options.drop_path_rate=0.2",
    "student.options.proj_drop_rate=0.1",
]


class Stop:
    """Presses Ctrl-C in a step."""

    def __init__(self, step):
        self.step = step

    @hookimpl
    def leapcore_metrics(self, step, metrics):
        if step >= self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(spec_file, tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(load_spec(spec_file, RICH), output=folder)
    return folder


@pytest.fixture
def stopped(whole, tmp_path):
    """The folder of a run as a kill in step 20 leaves it: half a line, and lines after the last checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    for name in ("step-00000024", "step-00000030"):
        shutil.rmtree(folder / "checkpoints" / name)
    (folder / "checkpoints" / "latest").write_text("step-00000018")
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "student")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 20]
    (folder / "metrics.jsonl").write_text("".join(kept) + '{"step": 24, "lo')
    return folder


def _lines(folder):
    """What the metrics say, without clocks."""
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    clocks = ("seconds", "images_per_second", "data_wait")
    return [{k: v for k, v in line.items() if k not in clocks} for line in found]


def _student(folder):
    return load_file(folder / "student" / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["adamw", "lars", "sgd", "adan", "muon"])
def test_a_resumed_run_is_the_undisturbed_run_bit_for_bit(spec_file, tmp_path, optimizer):
    options = [*RICH, f"optimizer.name={optimizer}", "train.duration=13st"]
    run(load_spec(spec_file, options), output=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    run(load_spec(spec_file, options), output=tmp_path / "again", resume="step-00000006")
    assert _lines(tmp_path / "again") == _lines(tmp_path / "whole")
    assert all(math.isfinite(line["loss"]) for line in _lines(tmp_path / "whole") if "loss" in line)
    ours, theirs = _student(tmp_path / "again"), _student(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_so_is_one_that_was_killed_between_checkpoints(spec_file, whole, stopped):
    report = run(load_spec(spec_file, RICH), output=stopped, resume="latest")
    assert _lines(stopped) == _lines(whole)
    assert (stopped / "student" / "model.safetensors").read_bytes() == (
        whole / "student" / "model.safetensors"
    ).read_bytes()
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (stopped, whole))
    for key in ("status", "steps", "flops", "curriculum", "accuracy"):
        assert ours[key] == theirs[key], key
    assert len({change.target for change in report.curriculum}) > 3
    assert 0 < ours["time"]["training_seconds"] < ours["time"]["seconds"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_resumes_bit_for_bit(spec_file, tmp_path, stage):
    own = [*RICH[:4], "student.options.drop_path_rate=0.2", f"engine.zero_stage={stage}"]
    spec = load_spec(spec_file, [*own, "train.duration=9st", "train.precision=bfloat16"])
    run(spec, output=tmp_path / "run")
    before, student = _lines(tmp_path / "run"), (tmp_path / "run/student/model.safetensors").read_bytes()
    (tmp_path / "run/summary.json").unlink()  # or there would be nothing to do
    run(spec, output=tmp_path / "run", resume="step-00000006")
    assert _lines(tmp_path / "run") == before
    assert (tmp_path / "run/student/model.safetensors").read_bytes() == student


def test_ctrl_c_twice_and_the_checkpoint_before_it(spec_file, tmp_path):
    with pytest.raises(Interrupted, match=r"stopped after 8 of 30 steps") as caught:
        run(load_spec(spec_file, RICH), output=tmp_path / "run", listeners=[Stop(8)])
    assert "step-00000006" in caught.value.remedy
    assert "--resume" in caught.value.remedy
    report = run(load_spec(spec_file, RICH), output=tmp_path / "run", resume="auto")
    assert (report.status, report.steps) == ("finished", 30)


def test_a_finished_run_is_left_alone(spec_file, whole):
    before = (whole / "summary.json").read_text()
    report = run(load_spec(spec_file, RICH), output=whole, resume="auto")
    assert (report.status, report.steps) == ("finished", 30)
    assert report.curriculum[0].reason == "start"
    assert (whole / "summary.json").read_text() == before


def test_auto_starts_where_there_is_nothing_and_does_not_replace_a_finished_run(spec_file, tmp_path):
    short = [*RICH, "train.duration=2st", "checkpoint={every: never}"]
    assert run(load_spec(spec_file, short), output=tmp_path / "run", resume="auto").steps == 2
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(OutputError, match="already holds a finished run"):
        run(load_spec(spec_file, [*short, "train.seed=1"]), output=tmp_path / "run", resume="auto")
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        run(load_spec(spec_file, [*short, "train.seed=1"]), output=tmp_path / "run", resume="latest")


ALLOWED = {
    "train.log_every=2": "train.log_every: 4 -> 2",
    "optimizer.lr=0.002": "the rate is the new one from here on",
    "curriculum.threshold=0.5": "the scheduler goes on from its state",
    "train.duration=26st": "the course of the rate is that of a run of the new length",
    "evaluate.knn=end": "evaluations happen so from here on",
}


def test_changes_that_may_be_are_logged_and_count(spec_file, stopped, caplog):
    run(load_spec(spec_file, [*RICH, *ALLOWED]), output=stopped, resume="latest")
    for told in ALLOWED.values():
        assert told in caplog.text
    assert [line["step"] for line in _lines(stopped) if "loss" in line][-4:] == [20, 22, 24, 26]
    assert "knn" in json.loads((stopped / "summary.json").read_text())["accuracy"]


def test_a_new_rate_is_used_from_there_on(spec_file, whole, stopped):
    run(load_spec(spec_file, [*RICH, "optimizer.lr=0.002"]), output=stopped, resume="latest")
    ours, theirs = ({x["step"]: x["lr"] for x in _lines(f) if "lr" in x} for f in (stopped, whole))
    assert ours[16] == theirs[16]
    assert ours[20] == pytest.approx(2 * theirs[20])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("student.options.depth=3", "student.options.depth: 2 -> 3: its weights belong to the other one"),
        ("train.batch_size=32", "train.batch_size: 64 -> 32"),
        ("train.seed=1", "train.seed: 0 -> 1"),
        ("data.image_size=24", "data.image_size: 32 -> 24"),
        ("optimizer.weight_decay=0.1", "what the optimizer remembers"),
        ("objective.cls_weight=0.5", "it would be another objective"),
        ("curriculum={scheduler: fixed}", "its state belongs to the other scheduler"),
        ("train.duration=10st", "taken after 18 steps, but the run has 10"),
    ],
)
def test_a_change_that_may_not_be_is_refused_with_the_reason(spec_file, stopped, change, reason):
    before = (stopped / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError) as caught:
        run(load_spec(spec_file, [*RICH, change]), output=stopped, resume="latest")
    assert reason in caught.value.cause
    assert caught.value.remedy
    assert (stopped / "metrics.jsonl").read_text() == before


def test_another_teacher_is_noticed(spec_file, stopped, tmp_path):
    from leapcore.spec.paths import weights_path

    weights = weights_path("asset:digits-vit")
    shutil.copytree(weights, tmp_path / "moved")
    moved = [*RICH, f"teacher.weights={tmp_path}/moved"]
    tensors = load_file(tmp_path / "moved" / "model.safetensors")
    other = {name: tensor + 0.1 for name, tensor in tensors.items()}
    from safetensors.torch import save_file

    save_file(other, tmp_path / "moved" / "model.safetensors")
    with pytest.raises(CheckpointError, match="the weights of teacher 'teacher' are not those"):
        run(load_spec(spec_file, moved), output=stopped, resume="latest")
    save_file(tensors, tmp_path / "moved" / "model.safetensors")
    assert run(load_spec(spec_file, moved), output=stopped, resume="latest").steps == 30


def test_a_checkpoint_of_another_teacher_depth_is_named_and_refused(spec_file, stopped):
    state = stopped / "checkpoints" / "step-00000018" / "state.json"
    told = json.loads(state.read_text())
    told["teachers"]["teacher"]["scheduler"]["num_layers"] = 24
    state.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"step-00000018' is of another teacher: .*24 layers.*12"):
        run(load_spec(spec_file, RICH), output=stopped, resume="latest")


def _truncate(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _flip(folder):
    content = bytearray((folder / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "optimizer.safetensors").write_bytes(content)


BROKEN = {
    "truncated": (_truncate, "weights.safetensors has"),
    "changed": (_flip, "optimizer.safetensors was changed"),
    "missing": (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "no state": (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    "half a state": (lambda folder: (folder / "state.json").write_text('{"format": 1, "fi'), "cannot be read"),
    "foreign": (lambda folder: (folder / "state.json").write_text("{}"), "not of a checkpoint that this version"),
    "a list": (lambda folder: (folder / "state.json").write_text("[]"), "not of a checkpoint that this version"),
    "empty": (lambda folder: (folder / "weights.safetensors").write_bytes(b""), "has 0 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_named_and_the_one_before_it_offered(spec_file, stopped, kind):
    break_it, told = BROKEN[kind]
    break_it(stopped / "checkpoints" / "step-00000018")
    with pytest.raises(CheckpointError) as caught:
        run(load_spec(spec_file, RICH), output=stopped, resume="auto")
    assert told in caught.value.cause
    assert "step-00000018" in caught.value.cause
    assert "step-00000012" in caught.value.remedy
    assert (stopped / "checkpoints" / "step-00000018").exists()
    with pytest.raises(CheckpointError, match=told):
        export_run(stopped)
    if kind == "truncated":
        assert run(load_spec(spec_file, RICH), output=stopped, resume="step-00000012").steps == 30


def test_only_the_newest_are_kept_and_nothing_else_is_removed(spec_file, tmp_path):
    spec = load_spec(spec_file, [*RICH, "checkpoint={every: 3st, keep: 2}", "train.duration=14st"])
    run(spec, output=tmp_path / "run")
    kept = Checkpoints(tmp_path / "run" / "checkpoints")
    assert kept.names() == ["step-00000012", "step-00000014"]
    assert kept.latest() == "step-00000014"


def test_latest_is_found_without_its_file(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (3, 12):
        checkpoints.save(step, Checkpoint(tmp_path, {"step": step}, {}, {}), keep=5)
    assert checkpoints.latest() == "step-00000012"
    (tmp_path / "latest").write_text("step-00000099")
    assert checkpoints.latest() == "step-00000012"
    (tmp_path / "latest").unlink()
    assert checkpoints.load().state["step"] == 12


def test_the_student_is_exported_from_any_checkpoint(spec_file, whole, tmp_path):
    done = export_run(whole)
    assert done.folder == whole / "exports" / "step-00000030"
    assert (done.folder / "model.safetensors").read_bytes() == (
        whole / "student" / "model.safetensors"
    ).read_bytes()
    earlier = export_run(whole, checkpoint="step-00000006", output=tmp_path / "early")
    from leapcore.compat import import_timm

    model = import_timm().create_model(f"local-dir:{earlier.folder}", pretrained=True)
    found = Checkpoints(whole / "checkpoints").load("step-00000006").weights
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found[f"student.model.{name}"])
    with pytest.raises(OutputError, match="is not empty"):
        export_run(whole, output=tmp_path / "early")
    with pytest.raises(CheckpointError, match="is no folder of a run"):
        export_run(tmp_path / "nowhere")


def test_a_checkpoint_holds_no_teacher_and_no_pickle(whole):
    folder = whole / "checkpoints" / "step-00000030"
    assert {path.name for path in folder.iterdir()} == {
        "state.json",
        "weights.safetensors",
        "optimizer.safetensors",
    }
    names = load_file(folder / "weights.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"student", "matches"}


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    import subprocess
    import sys

    lock = FolderLock(tmp_path / "a" / "run")
    code = (
        "import sys; from pathlib import Path; from leapcore.runs.lock import FolderLock; "
        "FolderLock(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a" / "run")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "is in use by process" in told.stderr
    lock.release()
    assert not (tmp_path / "a").exists()
    assert subprocess.run(command, check=False).returncode == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.parametrize("every", ["10min", "500st", "1ep", "never"])
def test_intervals(every):
    spec = CheckpointSpec(every=every)
    assert spec.model_dump(mode="json")["every"] == every
    assert CheckpointSpec(**spec.model_dump(mode="json")) == spec


def test_minutes_are_refused_where_steps_are_meant(spec_file):
    with pytest.raises(SpecError, match=r"'5ep' \(epochs\) or '2000st' \(steps\), got '5min'"):
        load_spec(spec_file, ["train.duration=5min"])
    with pytest.raises(SpecError, match=r"'2000st' \(steps\) or '10min' \(minutes\), got '10'"):
        load_spec(spec_file, ["checkpoint.every='10'"])


def test_a_longer_run_that_is_killed_is_not_taken_for_the_finished_one(spec_file, tmp_path):
    short = [*RICH, "train.duration=6st"]
    run(load_spec(spec_file, short), output=tmp_path / "run")
    with pytest.raises(Interrupted):
        run(load_spec(spec_file, RICH), output=tmp_path / "run", resume="auto", listeners=[Stop(8)])
    (tmp_path / "run" / "summary.json").unlink()  # as after a kill
    assert run(load_spec(spec_file, RICH), output=tmp_path / "run", resume="auto").steps == 30


def test_going_back_gives_up_what_came_after(spec_file, stopped):
    checkpoints = Checkpoints(stopped / "checkpoints")
    with pytest.raises(Interrupted):
        run(load_spec(spec_file, RICH), output=stopped, resume="step-00000006", listeners=[Stop(8)])
    assert checkpoints.latest() == "step-00000006"
    with pytest.raises(Interrupted):
        run(load_spec(spec_file, RICH), output=stopped, resume="auto", listeners=[Stop(12)])
    assert checkpoints.latest() == "step-00000006"  # it was stopped before its next one
    run(load_spec(spec_file, RICH), output=stopped, resume="auto")
    assert checkpoints.names()[-1] == checkpoints.latest() == "step-00000030"


def test_the_final_evaluation_leaves_one_line_however_often_it_is_done(spec_file, tmp_path):
    options = [*RICH, "train.duration=3st", "evaluate.knn=end"]
    run(load_spec(spec_file, options), output=tmp_path / "run")
    run(load_spec(spec_file, [*options, "data.crop=0.9"]), output=tmp_path / "run", resume="latest")
    assert sum("knn" in line for line in _lines(tmp_path / "run")) == 1


def test_optimizers_that_keep_numbers_of_all_kinds_come_back(spec_file, tmp_path):
    for name in ("lamb", "adafactorbv", "nadamw", "lion", "novograd"):
        options = [*RICH, f"optimizer.name={name}", "train.duration=8st"]
        run(load_spec(spec_file, options), output=tmp_path / name)
        before = _lines(tmp_path / name)
        run(load_spec(spec_file, options), output=tmp_path / name, resume="step-00000006")
        assert _lines(tmp_path / name) == before, name


def test_an_optimizer_that_cannot_be_saved_is_refused_at_the_start(spec_file, tmp_path):
    with pytest.raises(SpecError, match="what 'kron' remembers does not fit into a checkpoint"):
        run(load_spec(spec_file, [*RICH, "optimizer.name=kron"]), output=tmp_path / "run")


def test_overwrite_and_resume_contradict_each_other(leapcore_):
    code, _, err = leapcore_("run", "spec.yaml", "--overwrite", "--resume")
    assert code == 2
    assert "contradict each other" in err
