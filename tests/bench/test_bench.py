"""`leapcore bench` as a user runs it: cells in processes, one that fails, a stop and the way on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from leapcore.bench.folder import BenchFolder
from leapcore.bench.runner import Runner
from leapcore.distributed.launch import COMMAND

SPEC = """\
name: toy
shared:
  data: {source: digits, image_size: 32, crop: 1.0, workers: 0}
  optimizer: {name: adamw, lr: 0.001, warmup: 1st}
  train: {duration: 3st, batch_size: 64, log_every: 1}
  evaluate: {knn: end, linear: never}
teachers:
  vit: {backbone: vit, weights: "asset:digits-vit"}
students:
  narrow: {backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}}
methods:
  fixed: {curriculum: {scheduler: fixed}}
  broken: {curriculum: {scheduler: fixed}, train: {batch_size: 2000}}
baseline: fixed
"""
LONG = "train.duration=100st"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Starts `leapcore bench` on the spec in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "toy.yaml").write_text(SPEC)

    def start(*arguments):
        command = [sys.executable, "-c", COMMAND, "bench", "toy.yaml", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def finished(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_a_failing_cell_stops_no_other_and_what_is_done_is_skipped(bench, tmp_path):
    code, out, err = finished(bench("--jobs", "2"))
    assert code == 2
    assert "1 of 2 cells failed: vit.narrow.broken.s0" in err
    assert (
        "vit.narrow.broken.s0: failed: train.batch_size is 2000, but there are only 1437 training images"
        in out
    )
    assert "vit.narrow.fixed.s0: finished after" in out
    folder = tmp_path / "bench" / "toy"
    with (folder / "results.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    summary = json.loads((folder / "runs/vit.narrow.fixed.s0/summary.json").read_text())
    assert float(rows["vit.narrow.fixed.s0"]["accuracy_knn"]) == summary["accuracy"]["knn"]
    assert rows["vit.narrow.broken.s0"]["status"] == "failed"
    assert "vit.narrow.broken.s0" in (folder / "report.html").read_text()
    before = (folder / "runs/vit.narrow.fixed.s0/summary.json").stat().st_mtime_ns
    code, out, _ = finished(bench("--part", "0/2"))  # the first of the two cells
    assert code == 0
    assert "finished after" not in out
    assert (folder / "runs/vit.narrow.fixed.s0/summary.json").stat().st_mtime_ns == before


def test_a_stopped_benchmark_goes_on_where_it_was(bench, tmp_path):
    run_folder = tmp_path / "bench/toy/runs/vit.narrow.fixed.s0"
    process = bench("--set", LONG, "--part", "0/2")
    deadline = time.monotonic() + 180
    while not (
        (run_folder / "metrics.jsonl").exists() and "loss" in (run_folder / "metrics.jsonl").read_text()
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # SIGINT is ignored by what a shell starts in the background
    code, _, err = finished(process)
    assert code == 143
    assert "The same command goes on from there" in err
    stopped = json.loads((run_folder / "summary.json").read_text())
    assert stopped["status"] == "interrupted"
    assert 0 < stopped["steps"] < 100
    code, out, _ = finished(bench("--set", LONG, "--part", "0/2"))
    assert code == 0
    assert "1/1" in out
    assert json.loads((run_folder / "summary.json").read_text())["steps"] == 100
    assert steps(run_folder) == list(range(1, 101)), "none was lost, none taken twice"
    assert os.listdir(tmp_path / "bench/toy/logs") == ["vit.narrow.fixed.s0.log"]


def test_a_failure_of_the_benchmark_itself_leaves_no_run_at_work(tmp_path, monkeypatch):
    class FullDisk:
        def changed(self, cell, state, running):
            pass

        def tick(self):
            raise OSError("no space left on device")

    monkeypatch.setattr("leapcore.bench.runner.COMMAND", "import time; time.sleep(60)")
    (tmp_path / "logs").mkdir()
    runner = Runner(BenchFolder(tmp_path), 1, FullDisk())
    with pytest.raises(OSError, match="no space left"):
        runner.run([SimpleNamespace(name="a")])
    assert [process.returncode for process in runner._running] == [-signal.SIGTERM]


def steps(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["step"] for line in lines if "loss" in line]


def test_wrong_arguments_and_listing_touch_nothing(leapcore_, tmp_path):
    (tmp_path / "toy.yaml").write_text(SPEC)
    code, out, _ = leapcore_("bench", "toy.yaml", "--list")
    assert code == 0
    assert out.splitlines() == [
        "2 cells of 1 teacher × 1 student × 2 methods × 1 seed",
        "  vit.narrow.fixed.s0: waiting",
        "  vit.narrow.broken.s0: waiting",
    ]
    assert leapcore_("bench", "toy.yaml", "--list", "--only", "*.broken.s?")[1].splitlines() == [
        "1 cell of 1 teacher × 1 student × 1 method × 1 seed",
        "  vit.narrow.broken.s0: waiting",
    ]
    code, _, err = leapcore_("bench", "toy.yaml", "--part", "2/2")
    assert (code, "not of the form I/N" in err) == (2, True)
    assert not (tmp_path / "bench").exists()


def test_a_job_array_runs_parts_of_the_same_benchmark(leapcore_, tmp_path):
    (tmp_path / "toy.yaml").write_text(SPEC)
    code, out, _ = leapcore_("bench", "toy.yaml", "--slurm", "--set", "train.seed=3", "--only", "vit.*")
    assert code == 0
    assert "#SBATCH --array=0-1" in out
    assert (
        "leapcore bench toy.yaml --set=train.seed=3 '--only=vit.*' --jobs=1 --output=bench/toy --part" in out
    )
