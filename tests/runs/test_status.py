"""``leapcore status`` and ``leapcore tail``: runs as others see them, from their files."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from leapcore.distributed.launch import COMMAND
from leapcore.runs.follow import GrowingLines
from leapcore.runs.reader import Run

START = {
    "name": "mine",
    "batch_size": 50,
    "total_steps": 100,
    "thresholds": {"teacher": 0.95},
    "deepest": {"teacher": 12},
    "teachers": {"teacher": {"layers": 12}},
}
HOLDER = """
import sys; from pathlib import Path; from leapcore.runs.lock import FolderLock
lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read(); lock.release()
"""


def figures(step, layer=1, **others):
    own = {"loss": 0.5, "alignment": 0.9, "alignment_average": 0.8, "images_per_second": 100.0}
    return {"step": step, "epoch": step / 10, "target_layer": layer, **own, **others}


def change(step, target):
    told = {"previous": target - 1, "target": target, "reason": "time is up", "teacher": "teacher"}
    return {"event": "target_changed", "step": step, **told, "alignment": 0.8, "flops_saved": 0.4}


def write(path, lines, mode="w"):
    with path.open(mode) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def a_run(tmp_path):
    """Writes the folder of a run that took 30 steps."""

    def write_run(name, status=None, lock=False):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text("name: mine\n")
        (folder / "start.json").write_text(json.dumps(START))
        lines = [
            change(0, 1),
            figures(10),
            change(20, 2),
            figures(20),
            figures(30, 2),
            {"step": 30, "knn": 0.7},
        ]
        write(folder / "metrics.jsonl", lines)
        if status:
            (folder / "summary.json").write_text(json.dumps({"status": status, "accuracy": {"knn": 0.8}}))
        if lock:
            (folder / ".lock").write_text("process 1 on elsewhere\n")
        return folder

    return write_run


@contextmanager
def held(folder):
    """Meanwhile another process is at work there."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield holder


def test_the_state_of_a_run(a_run, tmp_path):
    for status in ("finished", "interrupted", "failed"):
        assert Run(a_run(status, status)).state == status
    assert Run(a_run("killed", lock=True)).state == "dead"
    assert Run(a_run("killed while it was evaluated", "trained", lock=True)).state == "dead"
    assert Run(tmp_path / "none").state == "waiting"
    running = a_run("running")
    with held(running):
        assert Run(running).state == "starting", "the files tell of an earlier process"
        (running / "start.json").touch()
        run = Run(running)
        assert (run.state, run.steps, run.targets) == ("running", 30, {"teacher": 2})
        assert re.match(r"process \d+ on ", run.process)
        assert run.seconds_left == pytest.approx(70 * 50 / 100)
        assert run.accuracy == {"knn": 0.7}
    assert Run(running).state == "dead", "it ended without a word"


def test_a_change_and_the_figures_of_its_step(a_run):
    folder = a_run("x")
    write(folder / "metrics.jsonl", [change(40, 3), figures(40, 2)], "a")
    assert Run(folder).targets == {"teacher": 3}, "a change comes before the figures of its step"
    (folder / "metrics.jsonl").write_text('{"step": 7, "lo')
    assert (Run(folder).steps, Run(folder).targets) == (0, {})


def test_status_of_one_run_and_as_json(leapcore_, a_run):
    a_run("runs/one", "finished")
    code, out, _ = leapcore_("status", "runs/one")
    assert code == 0
    assert out.startswith("runs/one: finished\n")
    assert re.search(r"step +30/100 \(30%\), epoch 3.0", out)
    assert re.search(r"figures +alignment 0.800/0.950  loss 0.5000", out)
    (told,) = json.loads(leapcore_("status", "runs/one", "--json")[1])
    assert (told["state"], told["total_steps"], told["accuracy"]) == ("finished", 100, {"knn": 0.8})
    assert told["seconds_left"] is None
    assert told["checkpoint"] is None


def test_why_a_run_failed_is_told(leapcore_, a_run):
    folder = a_run("one", "failed")
    told = {"status": "failed", "steps": 34, "error": "the loss was not finite"}
    (folder / "summary.json").write_text(json.dumps(told))
    out = leapcore_("status", "one")[1]
    assert re.search(r"reason +the loss was not finite +\n +step +34/100 \(34%\)", out)
    assert json.loads(leapcore_("status", "one", "--json")[1])[0]["reason"] == "the loss was not finite"
    assert leapcore_("tail", "one")[1].endswith("one: failed, the loss was not finite, kNN accuracy 70.00%\n")
    assert leapcore_("report", "one")[1].endswith("The run failed after 34 steps: the loss was not finite.\n")


def test_status_of_several_runs_and_of_a_benchmark(leapcore_, a_run, tmp_path, monkeypatch):
    a_run("runs/one", "finished")
    a_run("runs/two", lock=True)
    a_run("bench/b/runs/cell", "finished")
    (tmp_path / "bench/b/logs").mkdir()
    (tmp_path / "bench/b/logs/bad.failed").touch()
    cells = [{"name": name} for name in ("cell", "bad", "later")]
    (tmp_path / "bench/b/matrix.json").write_text(json.dumps({"cells": cells}))
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = leapcore_("status", "runs", "bench")
    rows = re.findall(r"^(\S+) +(\w+)", out, re.MULTILINE)
    assert code == 0
    assert rows[1:] == [
        ("runs/one", "finished"),
        ("runs/two", "dead"),
        ("bench/b/runs/cell", "finished"),
        ("bench/b/runs/bad", "failed"),
        ("bench/b/runs/later", "waiting"),
    ]
    assert max(map(len, out.splitlines())) <= 80
    code, _, err = leapcore_("status", "bench/b/logs")
    assert (code, "'bench/b/logs' holds no run" in err) == (2, True)


def test_status_needs_neither_torch_nor_the_spec(a_run, tmp_path):
    a_run("one", "finished")
    code = "import sys; from leapcore.cli import app; sys.argv = ['leapcore', 'status', 'one']\n"
    code += "app(standalone_mode=False); print({'torch', 'timm', 'leapcore.spec'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.endswith("set()\n")


def test_lines_are_handed_out_once_even_if_a_resumed_run_replaces_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    source = GrowingLines(path)
    assert source.new() == []
    write(path, [{"step": step} for step in (1, 2, 3)])
    with path.open("a") as file:
        file.write('{"step"')
    assert [line["step"] for line in source.new()] == [1, 2, 3]
    with path.open("a") as file:
        file.write(": 4}\n")
    assert source.new() == [{"step": 4}]
    write(tmp_path / "new", [{"step": 1}, {"step": 2}, {"step": 3, "again": True}])
    os.replace(tmp_path / "new", path)
    assert source.new() == [{"step": 3, "again": True}]
    assert source.new() == []
    write(tmp_path / "new", [{"step": 9}])
    os.replace(tmp_path / "new", path)
    assert source.new() == [{"step": 9}], "another run"
    source.close()


def test_tail_of_a_run_that_is_over(leapcore_, a_run):
    a_run("one", "finished")
    code, out, _ = leapcore_("tail", "one", "--lines", "3")
    assert code == 0
    assert out.splitlines() == [
        "step  20  layer 1/12  alignment 0.800/0.950  loss 0.5000  100 images/s",
        "step  30  layer 2/12  alignment 0.800/0.950  loss 0.5000  100 images/s",
        "step  30  kNN accuracy 70.00%",
        "one: finished, kNN accuracy 80.00%",
    ]
    out = leapcore_("tail", "one", "--lines", "4", "--no-follow")[1]
    assert out.startswith("step  20  layer  1 ->  2  time is up, alignment 0.800")
    assert "finished" not in out
    assert leapcore_("tail", ".")[0] == 2


def _tail(folder):
    """A tail in a process of its own that has told of the past."""
    tail = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "tail", str(folder), "--lines", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert tail.stdout.readline() == "step  30  kNN accuracy 70.00%\n"
    return tail


def test_tail_follows_a_run_to_its_end_or_until_ctrl_c(a_run):
    folder = a_run("one")
    with held(folder) as holder:
        stopped, tail = _tail(folder), _tail(folder)
        write(folder / "metrics.jsonl", [figures(40, 2)], "a")
        assert tail.stdout.readline().startswith("step  40  layer 2/12")
        stopped.send_signal(signal.SIGINT)
        assert stopped.wait(30) == 0
        assert stopped.stderr.read() == ""
        write(folder / "metrics.jsonl", [figures(50, 2)], "a")
        (folder / "summary.json").write_text('{"status": "finished"}')
        holder.stdin.close()
        assert holder.wait(30) == 0
        assert re.fullmatch(
            r"step  50  layer 2/12.*\n.*one: finished, kNN accuracy 70.00%\n", tail.communicate(timeout=30)[0]
        )
        assert tail.returncode == 0
