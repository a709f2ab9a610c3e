"""What the benchmarks keep in the repository fits together."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from leapcore import load_spec
from leapcore.models.build import backbone_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def spec(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_spec("benchmarks/fashion_mnist/spec.yaml", files=False)  # its images lie elsewhere


def test_the_fashion_mnist_student_is_at_most_a_quarter_of_its_teacher(spec):
    teacher, student = (backbone_of(b, spec.data.image_size) for b in (spec.teacher, spec.student))
    sizes = [sum(p.numel() for p in provider.parameters()) for provider in (teacher, student)]
    assert len(teacher.layers) == 12
    assert sizes[1] <= sizes[0] / 4


def test_the_fashion_mnist_teacher_is_good_and_small(spec):
    folder = Path(spec.teacher.weights)
    record = json.loads((folder / "training.json").read_text())
    assert record["test_accuracy"] >= 0.9
    assert (folder / "model.safetensors").stat().st_size <= 6e6
    assert record["data"]["source"] == spec.data.source


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


def test_a_step_is_measured_part_by_part(gpu, tmp_path, capsys):
    gpu.main(
        ["--tiny", "--batch", "4", "--set", "optimizer.clip=0.5", "--output", str(tmp_path / "found.json")]
    )
    found = json.loads((tmp_path / "found.json").read_text())
    (batch,) = found["batches"]
    rows = [*batch["blocks"], batch["baseline"]]
    assert [row["block"] for row in rows] == [*range(1, 9), 8]
    for row in rows:
        assert row["steps"] == 2
        assert row["seconds"] > 0
        assert set(row["parts"]) == {"teacher", "student", "alignment", "optimizer", "rest"}
        assert sum(row["parts"].values()) == pytest.approx(sum(row["seconds_by_group"]) / 2)
        assert all(seconds > 0 for name, seconds in row["parts"].items() if name != "alignment")
        assert (row["parts"]["alignment"] > 0) == row["scored"]
        assert row["peak_bytes"] is None
        assert row["resident_bytes"] is None
    assert len(batch["projections"]) == 35
    for row in batch["projections"]:
        # Short stays save less than scoring costs here.
        assert (0 if row["epochs_per_block"] > 1 else -0.1) < row["flops_saved"] < 1
        assert row["time_saved"] < 1
        assert row["ratio"] == row["time_saved"] / row["flops_saved"]
    assert found["product"]["flops_per_second"] > 0
    assert found["left_out"] == []
    printed = capsys.readouterr().out
    assert "optimizer.clip=0.5" in printed
    assert "| 8, not scored |" in printed


def test_flops_grow_by_the_same_with_every_block(gpu):
    """The target really is the block that is named, and all steps of a group are spent there."""
    spec = gpu.bench_spec(gpu.TEACHER, gpu.TINY, 4, [])
    bench = gpu.Bench(spec, gpu.TINY)
    shallow, middle, deep = (bench.measure(block, allowed=0) for block in (1, 4, 7))
    assert deep["flops"] - middle["flops"] == middle["flops"] - shallow["flops"] > 0
    assert deep["flops"] > bench.measure(7, scored=False, allowed=0)["flops"]
    plain = bench.measure(8, scored=False, allowed=0)
    assert plain["flops"] == plain["baseline_flops"]
    assert [deep["steps"], plain["steps"]] == [1, 1]


def test_without_time_there_are_fewer_blocks_and_it_is_said(gpu, tmp_path):
    output = tmp_path / "found.json"
    campaign = gpu.Campaign(gpu.parsed(["--tiny", "--output", str(output)]))
    campaign.measure(4, seconds=0)
    found = json.loads(output.read_text())
    (batch,) = found["batches"]
    assert [row["block"] for row in batch["blocks"]] == [1, 8]
    assert batch["projections"]
    assert [note for note in found["left_out"] if "block 5" in note] == [
        "batch of 4: block 5, for want of time"
    ]
    assert "batch of 4, block 8: 1 of 2 steps, for want of time" in found["left_out"]
    assert "- batch of 4: block 5" in gpu.report(found)


def test_a_wrong_setting_is_told(gpu, tmp_path, capsys):
    with pytest.raises(SystemExit, match="unknown key"):
        gpu.main(["--tiny", "--set", "engine.zero=1", "--output", str(tmp_path / "found.json")])
    assert "Left out:\n- all that follows" in capsys.readouterr().out


def test_time_that_follows_flops_is_saved_like_flops(gpu):
    """Blocks in between are interpolated, and the schedule is the one of paper_flops.py."""
    rows = [{"block": block, "seconds": 2 + block, "flops": 6 + 3 * block} for block in (1, 5, 40)]
    batch = {"depth": 40, "blocks": rows, "baseline": {"seconds": 42, "baseline_flops": 126}}
    found = {(row["start"], row["epochs_per_block"]): row for row in gpu.projections(batch)}
    mean_block = 29.5  # five epochs at each of 20 to 39
    assert found[20, 5]["time_saved"] == pytest.approx((40 - mean_block) / 42)
    assert all(row["ratio"] == pytest.approx(1) for row in found.values())


def test_blocks_are_spread_over_the_depth(gpu):
    assert gpu.chosen_blocks(40) == [1, 5, 10, 15, 20, 25, 30, 35, 40]
    assert gpu.chosen_blocks(3) == [1, 2, 3]


def test_spans_on_a_gpu_are_between_its_events(gpu, monkeypatch):
    """Without a GPU: events as torch has them, which say milliseconds."""
    clock = iter(range(0, 1000, 250))

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(clock)

        def elapsed_time(self, end):
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    spans = importlib.import_module("gpu_step").Spans(torch.device("cuda"))
    doubled = spans.around("double", lambda number: 2 * number)
    assert [doubled(2), doubled(3)] == [4, 6]
    assert spans.take() == {"double": 0.5}
    assert spans.take() == {}
