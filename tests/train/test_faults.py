"""What a run does when the machine fails it: killed, robbed of its files, short of disk.

``benchmarks/faults.py`` does the same for real and many times.
"""

import errno
import importlib.util
import math
import multiprocessing
import os
import shutil
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from safetensors import SafetensorError

from leapcore import hookimpl, load_spec, run
from leapcore.checkpoints.files import Checkpoint, Checkpoints
from leapcore.core.distiller import Distiller
from leapcore.data.images import read, read_or_next
from leapcore.data.sources import folder
from leapcore.distributed.launch import launch
from leapcore.errors import DataError, DivergedError, OutputError, RanksError, ResourceError, Terminated
from leapcore.runs.folder import RunFolder


def _benchmarks_tools():
    path = Path(__file__).parents[2] / "benchmarks" / "fault_tools.py"
    found = importlib.util.spec_from_file_location(path.stem, path)
    tools = importlib.util.module_from_spec(found)
    found.loader.exec_module(tools)
    return tools


tools = _benchmarks_tools()

SHORT = ["train.duration=8st", "train.log_every=1", "checkpoint.every=2st"]


@pytest.fixture(scope="module")
def undisturbed(spec_file, tmp_path_factory):
    return run(load_spec(spec_file, SHORT), output=tmp_path_factory.mktemp("undisturbed") / "run").folder


class After:
    """Does something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    @hookimpl
    def leapcore_metrics(self, step, metrics):
        if step == self.step:
            self.act()


# Killed between any two things that it does to files


def killed_before_each_change(act):
    """Run it in forks that are killed before the first, second, … change of a file, until one comes through.

    Yields after each kill.
    """
    for number in range(1, 1000):
        child = os.fork()
        if not child:
            _die_before_change(number)
            try:
                act()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return
        yield number


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def _die_before_change(number):
    left, fsync = [number], os.fsync

    def count():
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event, arguments):
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count()

    def synced(file):
        count()
        fsync(file)

    os.fsync = synced
    sys.addaudithook(heard)


def checkpoint(step):
    state = {"step": step, "spec": {}}
    return Checkpoint(Path(), state, {"weight": torch.full((4,), float(step))}, {"weight/m": torch.ones(4)})


@pytest.mark.parametrize("keep", [1, 2])
# A later step; the same one, and one of a course that was given up, as after a resume from one before it.
@pytest.mark.parametrize(("before", "saved"), [((1, 2), 3), ((1, 2), 2), ((1, 3), 2)])
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path, keep, before, saved):
    now, kills = Checkpoints(tmp_path / "now"), 0
    for step in before:
        now.save(step, checkpoint(step), keep=2)
    shutil.copytree(now.folder, tmp_path / "before")
    for _ in killed_before_each_change(lambda: now.save(saved, checkpoint(saved), keep=keep)):
        found, kills = now.load(), kills + 1
        assert found.state["step"] in (*before, saved)
        assert found.weights["weight"][0] == found.state["step"]
        for name in now.names():
            now.load(name)
        shutil.rmtree(now.folder)
        shutil.copytree(tmp_path / "before", now.folder)
    assert kills > 15
    assert now.load().state["step"] == saved


def test_a_state_that_is_no_json_leaves_nothing_behind(tmp_path):
    now, strange = Checkpoints(tmp_path), checkpoint(2)
    now.save(1, checkpoint(1), keep=2)
    strange.state["scheduler"] = {1, 2}
    with pytest.raises(TypeError):
        now.save(2, strange, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


def start(path, spec, **options):
    """A run's dealings with its folder before its first step."""
    folder = RunFolder(path, **options)
    folder.open(spec)
    folder.checkpoints.save(1, checkpoint(1), keep=2)
    folder.settle()


def test_a_start_killed_at_any_moment_blocks_no_later_one(tmp_path, spec_file):
    spec = load_spec(spec_file)
    kills = 0
    for _ in killed_before_each_change(lambda: start(tmp_path / "run", spec)):
        kills += 1
        RunFolder(tmp_path / "run", resume="auto").close()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert kills > 20


def test_an_overwriting_start_killed_at_any_moment_leaves_the_earlier_run_or_the_new_one(tmp_path, spec_file):
    path, spec = tmp_path / "run", load_spec(spec_file)
    start(path, spec)
    (path / "summary.json").write_text('{"status": "finished"}')
    (path / "student").mkdir()
    (path / "student" / "model.safetensors").write_text("earlier")
    (path / ".lock").unlink()
    shutil.copytree(path, tmp_path / "before")
    for _ in killed_before_each_change(lambda: start(path, spec, overwrite=True)):
        folder = RunFolder(path, overwrite=True)
        folder.open(spec)
        folder.abandon()
        folder.close()
        earlier = path / "student" / "model.safetensors"
        assert earlier.exists() or not (path / ".replaced").exists()
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "before", path)


# Signals


def test_sigterm_ends_with_143_and_the_resumed_run_is_the_undisturbed_one(tmp_path, spec_file, undisturbed):
    stop = After(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    spec = load_spec(spec_file, SHORT)
    with pytest.raises(
        Terminated, match=r"stopped after 4 of 8 steps(.|\n)*step-00000004.*--resume"
    ) as caught:
        run(spec, output=tmp_path / "run", listeners=[stop])
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(spec, output=tmp_path / "run", resume="auto")
    assert tools.alike(tmp_path / "run", undisturbed)


def test_sigterm_to_all_its_processes_lets_a_run_save_itself(tmp_path):
    command = tools.Command(tmp_path / "run", "data.workers=1", before=os.setsid)
    assert command.until(lambda: tools.newest(tmp_path / "run"), pause=0.02)
    os.killpg(command.process.pid, signal.SIGTERM)
    assert command.code(60) == 143
    assert command.says("stopped after", "with the same command and --resume")


def test_sigterm_before_the_first_step_leaves_nothing_behind(tmp_path):
    command = tools.Command(tmp_path / "run")
    assert command.until((tmp_path / "run" / ".lock").exists, pause=0.02)
    time.sleep(0.2)  # what follows takes seconds
    command.process.terminate()
    assert command.code() == 143
    assert command.says("stopped before the first step; nothing was left behind")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_and_free_as_soon_as_its_user_is_killed(tmp_path):
    spec = load_spec("quickstart", [*tools.SHORT, "train.duration=30st"])
    calm = run(spec, output=tmp_path / "calm").folder
    command = tools.Command(tmp_path / "run", "train.duration=30st")
    assert command.until(lambda: tools.newest(tmp_path / "run"), pause=0.02)
    command.process.send_signal(signal.SIGSTOP)
    with pytest.raises(OutputError, match=f"is in use by process {command.process.pid} on"):
        run(spec, output=tmp_path / "run", resume="auto")
    command.process.kill()
    assert command.code() == 137
    run(spec, output=tmp_path / "run", resume="auto")
    assert tools.alike(tmp_path / "run", calm)


def test_one_of_two_processes_killed_ends_the_other_with_a_message(tmp_path):
    command = tools.Command(tmp_path / "run", processes=2)
    assert command.until(lambda: tools.newest(tmp_path / "run"), pause=0.02)
    ranks = tools.children(command.process.pid)
    tools.kill(ranks[1])
    assert command.code(60) == 137
    assert command.says("process of this run is gone", "--resume")
    assert len(ranks) == 2
    assert not any(map(tools.alive, ranks))


@pytest.mark.parametrize(
    ("codes", "told"), [((-15, -9), 137), ((-9, -15), 137), ((2, -15), 2), ((-15,), 143)]
)
def test_the_launcher_ends_with_the_code_of_a_process_that_it_did_not_end_itself(monkeypatch, codes, told):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = {rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(codes)}

    def start(*arguments):
        raise error

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda config, program: start)
    with pytest.raises((SystemExit, RanksError)) as caught:
        launch(["run", "spec.yaml"], processes=len(codes))
    killed = isinstance(caught.value, RanksError)
    assert (caught.value.exit_code if killed else caught.value.code) == told
    assert killed == (-9 in codes), "only who was killed could not say so itself"


# A full disk


@pytest.mark.parametrize("good", [0, 1, 3, 5, 6, 8])
def test_a_disk_that_is_full_in_a_checkpoint_ends_no_run(
    tmp_path, spec_file, undisturbed, monkeypatch, caplog, good
):
    calls, plain = [0], os.fsync  # called six times for a checkpoint: files, folder, folder above, latest

    def fsync(file):
        calls[0] += 1
        if calls[0] > good:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(file)

    monkeypatch.setattr(os, "fsync", fsync)
    run(load_spec(spec_file, SHORT), output=tmp_path / "run")
    monkeypatch.undo()
    assert tools.alike(tmp_path / "run", undisturbed)
    assert "could not be written ([Errno 28] No space left on device)" in caplog.text
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert not list(checkpoints.folder.glob(".partial*"))
    for name in checkpoints.names():
        checkpoints.load(name)
    assert (checkpoints.latest() is None) == (good < 4)


@pytest.mark.parametrize(
    "error",
    [SafetensorError("I/O error: No space left on device (os error 28)"), OSError(errno.ENOSPC, "full")],
)
def test_a_disk_that_is_full_at_the_end_is_told_and_the_run_goes_on_from_its_checkpoint(
    tmp_path, spec_file, undisturbed, monkeypatch, error
):
    def export(*_):
        raise error

    spec = load_spec(spec_file, SHORT)
    monkeypatch.setattr("leapcore.train.run.export_student", export)
    with pytest.raises(ResourceError, match=r"the disk is full after 8 steps(.|\n)*--resume"):
        run(spec, output=tmp_path / "run")
    monkeypatch.undo()
    run(spec, output=tmp_path / "run", resume="auto")
    assert tools.alike(tmp_path / "run", undisturbed)


# Images


@pytest.fixture
def digits(tmp_path):
    """128 training images, two batches: their files, and settings for a run on them."""
    files = tools.write_digits(tmp_path / "digits", train=128, val=16)
    places = [f"data.{part}={tmp_path}/digits/{part}" for part in ("train", "val")]
    return files, ["data.source=folder", *places, *SHORT]


@pytest.mark.parametrize("kind", tools.READABLE)
def test_every_kind_of_image_is_read_as_what_it_shows(digits, kind):
    path = digits[0][5]
    original = Image.open(path).convert("L")
    tools.READABLE[kind](path)
    seen = read([(path.read_bytes(), 3)], 0)
    assert (seen.image.mode, seen.label, seen.faults) == ("RGB", 3, ())
    difference = ImageStat.Stat(ImageChops.difference(seen.image.convert("L"), original))
    assert difference.mean[0] < 4


def test_broken_images_are_skipped_and_counted(digits, tmp_path, spec_file):
    files, settings = digits
    broken = dict(zip(tools.BROKEN, files[10::20], strict=False))
    for kind, path in broken.items():
        tools.BROKEN[kind](path)
    run(load_spec(spec_file, [*settings, "data.skip_limit=0.1"]), output=tmp_path / "run")
    lines = (tmp_path / "run" / "skipped.log").read_text().splitlines()
    assert len(lines) == len(broken) == 5
    assert all(sum(str(path) in line for line in lines) == 1 for path in broken.values())


def test_a_missing_file_is_skipped_under_its_own_name(digits, spec_file):
    files, settings = digits
    images = folder(load_spec(spec_file, settings).data, "", 0).train
    index = next(i for i in range(128) if images.filename(i, absolute=True) == str(files[5]))
    files[5].unlink()
    (fault,) = read_or_next(images, index).faults
    assert fault.name == str(files[5])
    assert fault.reason.startswith("FileNotFoundError")


@pytest.mark.parametrize(("harm", "workers"), [("moved", 0), ("moved", 2), ("emptied", 0)])
def test_images_lost_in_mid_run_end_it_and_brought_back_they_change_nothing(
    digits, tmp_path, spec_file, harm, workers
):
    spec = load_spec(spec_file, [*digits[1], f"data.workers={workers}"])
    calm = run(spec, output=tmp_path / "calm").folder

    def lose():
        (tmp_path / "digits").rename(tmp_path / "away")
        if harm == "emptied":
            for path in tools.write_digits(tmp_path / "digits", train=128, val=16):
                path.write_bytes(b"")

    with pytest.raises(DataError, match=r"cannot be used(.|\n)*still there") as caught:
        run(spec, output=tmp_path / "run", listeners=[After(3, lose)])
    assert caught.value.exit_code == 2
    kept = tools.newest(tmp_path / "run")
    assert kept in ([3] if workers == 0 else range(3, 8)), "workers are some batches ahead"
    shutil.rmtree(tmp_path / "digits", ignore_errors=True)
    (tmp_path / "away").rename(tmp_path / "digits")
    run(spec, output=tmp_path / "run", resume="auto")
    assert tools.alike(tmp_path / "run", calm)


def test_images_skipped_after_the_checkpoint_of_a_resume_are_in_the_log_once(digits, tmp_path, spec_file):
    files, settings = digits
    for path in files[10:90:20]:
        path.write_bytes(b"")
    spec = load_spec(spec_file, [*settings, "data.skip_limit=0.1", "checkpoint={every: 1st, keep: 9}"])
    run(spec, output=tmp_path / "run")
    log = (tmp_path / "run" / "skipped.log").read_text().splitlines()
    assert {line.partition(":")[0] for line in log} == {"step 0", "step 1"}
    (tmp_path / "run" / "summary.json").unlink()
    run(spec, output=tmp_path / "run", resume="step-00000001")
    assert (tmp_path / "run" / "skipped.log").read_text().splitlines() == log


def test_a_data_worker_that_dies_ends_the_run_between_two_steps(tmp_path, spec_file, undisturbed):
    spec = load_spec(spec_file, [*SHORT, "data.workers=2"])
    strangers = multiprocessing.active_children()  # earlier runs' workers, which their loaders still hold

    def kill_one():
        next(child for child in multiprocessing.active_children() if child not in strangers).kill()

    kill = After(1, kill_one)  # so early that the workers, some batches ahead, cannot have made the last one
    with pytest.raises(
        DataError, match=r"a process that loads images died(.|\n)*fewer data.workers"
    ) as caught:
        run(spec, output=tmp_path / "run", listeners=[kill])
    assert caught.value.exit_code == 2
    assert tools.newest(tmp_path / "run") >= 1
    run(spec, output=tmp_path / "run", resume="auto")
    assert tools.alike(tmp_path / "run", undisturbed)


# Losses that are not finite


@pytest.fixture
def weights(monkeypatch):
    """The weights before each step; the loss of the third is not a number."""
    plain, weights = Distiller.forward, []

    def forward(self, *given):
        result = plain(self, *given)
        if not result.loss.requires_grad:  # only counted
            return result
        weights.append(torch.cat([parameter.detach().flatten() for parameter in self.parameters()]))
        return result._replace(loss=result.loss * (math.nan if len(weights) == 3 else 1))

    monkeypatch.setattr(Distiller, "forward", forward)
    return weights


@pytest.mark.parametrize("policy", ["skip", "2"])
def test_a_step_without_a_finite_loss_changes_no_weight(tmp_path, spec_file, weights, policy):
    spec = load_spec(spec_file, [*SHORT, f"train.nonfinite_steps={policy}"])
    assert run(spec, output=tmp_path / "run").status == "finished"
    same = [torch.equal(*pair) for pair in pairwise(weights)]
    assert same == [False, False, True, False, False, False, False]
    assert all(those.isfinite().all() for those in weights)


def test_it_ends_the_run_where_one_such_step_is_enough(tmp_path, spec_file, weights):
    spec = load_spec(spec_file, [*SHORT, "train.nonfinite_steps=1"])
    with pytest.raises(DivergedError, match=r"not finite in 1 steps in a row, up to step 3") as caught:
        run(spec, output=tmp_path / "run")
    assert caught.value.exit_code == 2
    assert len(weights) == 3
    assert tools.newest(tmp_path / "run") == 2
