"""Several processes do what one does: the same batches, scores, targets and losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import write_shards

from leapcore import linear_cka, load_spec, mean_cosine, run
from leapcore.core.batch_alignment import BatchAlignment
from leapcore.core.losses import sigreg
from leapcore.data.batches import TrainingBatches
from leapcore.data.sources import digits
from leapcore.distributed.place import Place, meeting_point, place
from leapcore.distributed.ranks import Ranks
from leapcore.spec import DataSpec

sys.path.insert(0, str(Path(__file__).parent))
import two_ranks

# Six steps in which the target moves twice.
WALK = [
    "train.duration=6st",
    "train.log_every=1",
    "curriculum={scheduler: cka, max_time_per_layer: 2st, threshold: 2}",
]
SAMPLED = [*WALK[:2], "curriculum={scheduler: cka, max_time_per_layer: 2st, sample_images: 20}"]
# Three epochs of two steps, with views that come again.
CACHED = [
    "train={duration: 6st, batch_size: 704, log_every: 1}",
    "curriculum={scheduler: fixed, layer: 3}",
    "objective.mixup=false",
    "data.augment.views=1",
]
RUNS = {
    "stage0": WALK,
    "stage1": [*WALK, "engine.zero_stage=1"],
    "stage2": [*WALK, "engine.zero_stage=2"],
    "stage3": [*WALK, "engine.zero_stage=3", "evaluate={knn: end, cka_map: 3st}"],
    "parts": [*WALK, "engine.accumulate=2", "engine.gradient_checkpointing=true"],
    "sigreg": [*WALK, "objective.sigreg=0.1"],
    "sampled": SAMPLED,
    "resumed": [*WALK, "checkpoint.every=4st"],
    # The last two steps again, at another ZeRO stage.
    "resumed again": [*WALK, "engine.zero_stage=2", "step-00000004"],
}


@pytest.fixture(scope="module")
def two(spec_file, tmp_path_factory):
    """The folder of everything that two processes did."""
    output = tmp_path_factory.mktemp("two")
    runs = RUNS | {"cached": [*CACHED, f"cache.folder={output}/cache"]}
    (output / "runs.json").write_text(json.dumps(runs))
    write_shards(output / "shards", shards=4)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("two_ranks.py")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, script, spec_file, output], check=True, env=env, timeout=150)
    return output


@pytest.fixture(scope="module")
def one(spec_file, tmp_path_factory):
    """Runs of one process: their losses, alignments and targets, step by step."""
    output = tmp_path_factory.mktemp("one")
    runs = {
        "walk": [*WALK, "evaluate.cka_map=3st"],
        "sigreg": [*WALK, "objective.sigreg=0.1"],
        "sampled": SAMPLED,
    }
    runs["cached"] = [*CACHED, f"cache.folder={output}/cache"]
    for name, overrides in runs.items():
        run(load_spec(spec_file, overrides), output=output / name)
    return output


def _said(two):
    return [json.loads((two / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def _steps(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["target_layer"], line["loss"], line["alignment"]) for line in lines if "loss" in line]


def test_scores_of_shared_out_rows_are_those_of_all_rows(two):
    x, y = two_ranks.rows()
    cka, unbiased = linear_cka(x, y).item(), linear_cka(x, y, unbiased=True).item()
    expected = [cka, unbiased, cka, unbiased, mean_cosine(x, x * 2 + 1).item()]
    first, second = (said["scores"] for said in _said(two))
    assert first == second  # to the last bit, or schedulers could decide differently
    assert first == pytest.approx(expected, abs=2e-7)
    halves = [linear_cka(x[part], y[part]).item() for part in (slice(0, 30), slice(30, 60))]
    assert sum(halves) / 2 != pytest.approx(cka, abs=1e-3)  # which is why nobody averages them


def test_a_batch_is_permuted_across_ranks(two):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    first, second = (said["permuted"] for said in _said(two))
    assert first + second == order.tolist()


def test_sigreg_has_the_gradient_of_the_whole_batch(two):
    x, _ = two_ranks.rows()
    weight = torch.eye(8, requires_grad=True)
    sigreg(x @ weight).backward()
    for said in _said(two):
        assert torch.allclose(torch.tensor(said["sigreg gradient"]).view(8, 8), weight.grad, atol=1e-6)


def test_what_fails_on_one_rank_fails_on_all_with_its_error(two):
    for said in _said(two):
        assert said["failed together"] == "True on rank 1: no images"
        assert "differ in the rank: 0 on rank 0, 1 on rank 1" in said["differ"]
        assert said["from the first"] == "rank 0"


def test_targets_that_differ_end_the_run_at_once(two):
    for said in _said(two):
        assert "after the steps [0, 0] they have the target layers [[2], [5]]" in said["diverged"]
        assert said["diverged"].startswith("True")


@pytest.mark.parametrize("name", ["stage0", "stage1", "stage2", "stage3", "parts"])
def test_two_ranks_have_the_losses_and_targets_of_one(two, one, name):
    found, expected = _steps(two / name), _steps(one / "walk")
    assert [step[0] for step in found] == [1, 1, 2, 2, 3, 3]
    assert len(expected) == 6
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


@pytest.mark.parametrize("name", ["sigreg", "sampled"])
def test_so_have_they_with_a_loss_or_score_of_their_own(two, one, name):
    for ours, theirs in zip(_steps(two / name), _steps(one / name), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)


def test_two_ranks_find_what_either_has_computed_and_book_it_alike(two, one):
    found, expected = (
        [json.loads(line) for line in (root / "cached/metrics.jsonl").read_text().splitlines()][1:]
        for root in (two, one)
    )
    assert [line["cache_hits"] > 0.9 for line in found if "loss" in line] == [False] * 2 + [True] * 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-5)
        for name in ("cache_hits", "flops_saved"):  # views that are alike may be seen by both ranks
            assert ours[name] == pytest.approx(theirs[name], abs=0.005)
    assert {file.name.split("-")[1] for file in (two / "cache").rglob("*.batch")} == {"0", "1"}


def test_a_run_goes_on_at_another_zero_stage(two, one):
    for ours, theirs in zip(_steps(two / "resumed"), _steps(one / "walk"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    summary = json.loads((two / "resumed" / "summary.json").read_text())
    assert (summary["steps"], [c["target"] for c in summary["curriculum"]]) == (6, [1, 2, 3, 4])


def test_a_run_of_two_ranks_goes_on_in_one_process(two, one, spec_file, tmp_path):
    from shutil import copytree

    copytree(two / "stage3", tmp_path / "run")
    longer = [*WALK, "train.duration=8st"]
    run(load_spec(spec_file, longer), output=tmp_path / "run", resume="latest")
    run(load_spec(spec_file, longer), output=tmp_path / "whole")
    assert len(_steps(tmp_path / "run")) == 8


def test_partitioned_weights_are_exported_whole(two, one):
    from safetensors.torch import load_file

    ours = load_file(two / "stage3" / "student" / "model.safetensors")
    theirs = load_file(one / "walk" / "student" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    assert "knn" in json.loads((two / "stage3" / "summary.json").read_text())["accuracy"]


def test_maps_of_partitioned_weights_are_those_of_one_process(two, one):
    theirs, ours = (
        [json.loads(line) for line in (folder / "cka_maps.jsonl").read_text().splitlines()]
        for folder in (two / "stage3", one / "walk")
    )
    assert [line["step"] for line in theirs] == [line["step"] for line in ours] == [0, 3, 6]
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(torch.tensor(other["cka"]), torch.tensor(mine["cka"]), atol=1e-4)


def test_a_stream_is_not_shared_out_twice(two):
    """timm's readers deal out shards by themselves once processes have met."""
    first, second = (said["stream"] for said in _said(two))
    assert first["val"] == second["val"] == 8
    assert len(first["reds"]) == 4  # of one image each: each image is of another red
    assert sorted(first["reds"] + second["reds"]) == list(range(8))


DIVERGES = ["optimizer.lr=1e30", "optimizer.clip=0", "optimizer.warmup=0st", "train.duration=9st"]


def test_all_leave_together_and_the_first_tells_why(spec_file, tmp_path):
    sets = [part for override in DIVERGES for part in ("--set", override)]
    command = [sys.executable, "-m", "leapcore", "run", str(spec_file), "--processes", "2", *sets]
    ended = subprocess.run(
        [*command, "--output", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("Error") == 1
    assert "not finite in 3 steps in a row" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_share_each_batch_without_duplicates_or_drops(size):
    data = DataSpec(source="digits", image_size=16, workers=0)
    images = digits(data, "", 0).train

    def batches(ranks, done=0):
        return list(TrainingBatches(images, data, 64, 3, ranks).epoch(1, done))

    whole = batches(Ranks())
    shares = [batches(Ranks(Place(rank, rank, size))) for rank in range(size)]
    assert len(whole) == 22
    for step, (pixels, labels, *_) in enumerate(whole):
        assert torch.equal(torch.cat([share[step][0] for share in shares]), pixels)
        assert torch.equal(torch.cat([share[step][1] for share in shares]), labels)
    later = batches(Ranks(Place(1, 1, size)), done=20)
    assert [labels.tolist() for _, labels, *_ in later] == [
        labels.tolist() for _, labels, *_ in shares[1][20:]
    ]


def test_the_first_images_of_a_batch_belong_to_the_first_ranks():
    shares = [Ranks(Place(rank, rank, 4)) for rank in range(4)]
    tokens = torch.randn(32, 4)  # two of each of this process's 16 images
    rows = []

    class Parts:
        def all_reduce(self, tensor, op="sum"):
            return tensor

    def score(x, y, **_):
        rows.append(len(x) // 2)
        return x.new_zeros(())

    for sampled in (20, 64):
        for ranks in shares:
            measure = BatchAlignment("cosine", 64, sampled, parts=Parts(), share=ranks.share(64))
            measure._score = measure._score._replace(score=score)
            measure(tokens, tokens)
    assert rows == [16, 4, 0, 0, 16, 16, 16, 16]


def test_launchers_say_which_process_this_is():
    assert place({}) == Place(0, 0, 1)
    assert place({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}) == Place(5, 1, 8)
    srun = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
    assert place(srun) == Place(0, 0, 1)  # the batch script itself
    assert place(srun | {"SLURM_STEP_NUM_TASKS": "4"}) == Place(3, 1, 4)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node[03-07,9],login", "node03"),
        ("gpu-1,gpu-2", "gpu-1"),
        ("a[1,3]-b,c", "a1-b"),
        ("single", "single"),
    ],
)
def test_processes_of_srun_meet_on_the_first_machine(hosts, first):
    found = meeting_point({"SLURM_STEP_NODELIST": hosts, "SLURM_JOB_ID": "41234"})
    assert found == {"MASTER_ADDR": first, "MASTER_PORT": "21234"}
    assert meeting_point({"MASTER_ADDR": "x", "MASTER_PORT": "1"}) == {"MASTER_ADDR": "x", "MASTER_PORT": "1"}
