"""From a benchmark's spec to the specs of its runs, and what is refused before anything runs."""

import errno
import json
import subprocess
import sys

import pytest

from leapcore.bench.checks import check_models
from leapcore.bench.folder import BenchFolder
from leapcore.bench.matrix import cells, merged
from leapcore.bench.progress import BenchProgress
from leapcore.bench.runner import _environments, failure
from leapcore.bench.slurm import script
from leapcore.bench.spec import load_bench
from leapcore.errors import LeapcoreError, OutputError, SpecError
from leapcore.runs import lock
from leapcore.runs.state import State

SPEC = """\
name: toy
base: quickstart
shared:
  train: {duration: 2st, batch_size: 16, log_every: 1}
  evaluate: {knn: never, linear: never, teacher: false}
teachers:
  vit: {backbone: vit, weights: "asset:digits-vit"}
students:
  narrow: {backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}}
  wide: {backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 36, depth: 2, num_heads: 2}}
methods:
  fixed: {curriculum: {scheduler: fixed}}
  leap: {curriculum: {threshold: 0.5}}
seeds: [0, 1]
baseline: fixed
"""


@pytest.fixture
def bench(tmp_path):
    """Writes a spec, with more text behind it, and reads it."""

    def load(*more, replace=()):
        text = SPEC
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "bench.yaml"
        path.write_text(text + "\n".join(more))
        return load_bench(str(path))

    return load


def test_every_combination_is_a_cell_seed_by_seed(bench):
    found = cells(bench())
    assert [cell.name for cell in found[:4]] == [
        "vit.narrow.fixed.s0",
        "vit.narrow.leap.s0",
        "vit.wide.fixed.s0",
        "vit.wide.leap.s0",
    ]
    assert len(found) == 8
    assert [cell.seed for cell in found] == [0] * 4 + [1] * 4
    fixed, leap = found[0].spec, found[1].spec
    assert (fixed.name, fixed.train.seed, fixed.train.batch_size) == ("vit.narrow.fixed.s0", 0, 16)
    assert fixed.student.options["embed_dim"] == 24
    assert fixed.curriculum.scheduler == "fixed"
    assert "threshold" not in fixed.curriculum.options, "another scheduler takes over no option"
    assert leap.curriculum.scheduler == "cka", "the base's scheduler, with one option changed"
    assert leap.curriculum.options["threshold"] == 0.5
    assert found[4].spec == leap.model_copy(
        update={
            "name": "vit.narrow.fixed.s1",
            "curriculum": fixed.curriculum,
            "train": fixed.train.model_copy(update={"seed": 1}),
        }
    )


def test_exceptions_change_leave_out_and_reseed_cells(bench):
    found = cells(
        bench(
            "exceptions:",
            "- {where: {method: leap}, set: {curriculum: {threshold: 0.7}}}",
            "- {where: {method: leap, student: [wide]}, set: {curriculum: {threshold: 0.8}}, seeds: [7]}",
            "- {where: {student: narrow, method: fixed}, skip: true}",
        )
    )
    named = {cell.name: cell.spec for cell in found}
    assert list(named) == [
        "vit.narrow.leap.s0",
        "vit.wide.fixed.s0",
        "vit.narrow.leap.s1",
        "vit.wide.fixed.s1",
        "vit.wide.leap.s7",
    ]
    assert named["vit.narrow.leap.s0"].curriculum.options["threshold"] == 0.7
    assert named["vit.wide.leap.s7"].curriculum.options["threshold"] == 0.8, "the later exception decides"


def test_a_later_exception_takes_cells_in_again(bench):
    found = cells(
        bench(
            "exceptions:",
            "- {where: {student: wide}, skip: true}",
            "- {where: {student: wide, method: leap}, skip: false, seeds: [7]}",
            "- {where: {student: wide}, set: {train: {batch_size: 8}}}",
        )
    )
    assert [cell.name for cell in found if cell.student == "wide"] == ["vit.wide.leap.s7"]


def test_overrides_reach_every_cell(bench):
    assert {cell.spec.train.duration.amount for cell in cells(bench(), ["train.duration=5st"])} == {5}


def test_merging_goes_by_section_but_not_into_another_scheduler():
    below = {"curriculum": {"scheduler": "cka", "threshold": 0.9}, "train": {"seed": 1, "batch_size": 8}}
    above = {"curriculum": {"scheduler": "fixed"}, "train": {"seed": 2}}
    assert merged(below, above) == {
        "curriculum": {"scheduler": "fixed"},
        "train": {"seed": 2, "batch_size": 8},
    }
    assert below["train"]["seed"] == 1


REFUSED = {
    "no teacher": (('teachers:\n  vit: {backbone: vit, weights: "asset:digits-vit"}', "teachers: {}"), "bench.yaml:6: teachers: .*at least 1"),
    "no seed": (("seeds: [0, 1]", "seeds: []"), "bench.yaml:14: seeds: .*at least 1"),
    "a seed twice": (("seeds: [0, 1]", "seeds: [0, 1, 0]"), "two cells would have the same name: seed 0 comes twice"),
    "a name twice": (("wide:", "narrow:"), r"bench.yaml:\d+: this is not YAML: .*duplicate key"),
    "names alike": (("wide:", "Narrow:"), "'narrow' and 'Narrow' would have one folder"),
    "unknown baseline": (("baseline: fixed", "baseline: fix"), "baseline: 'fix' is none of the methods. Did you mean 'fixed'"),
    "unknown key": (("baseline: fixed", "basline: fixed"), "basline: unknown key. Did you mean 'baseline'"),
    "unknown name in an exception": (
        ("baseline: fixed", "exceptions: [{where: {student: wid}, skip: true}]"),
        "exceptions.0.where.student: 'wid' is none of the students. Did you mean 'wide'",
    ),
    "all left out": (("baseline: fixed", "exceptions: [{where: {}, skip: true}]"), "the matrix of 'toy' has no cell"),
    "an invalid cell": (
        ("{threshold: 0.5}", "{threshold: high}"),
        r"nothing was run; 4 cells are sound(.|\n)*cell vit.narrow.leap.s0 and 3 more: curriculum.threshold",
    ),
    "an unknown scheduler": (("{scheduler: fixed}", "{scheduler: fixd}"), r"cell vit.narrow.fixed.s0 and 3 more: .*'fixd'"),
    "lost weights": (("asset:digits-vit", "nowhere"), "cell vit.narrow.fixed.s0 and 7 more: weights 'nowhere' do not exist"),
    "an unknown base": (("base: quickstart", "base: quick"), "'quick' is neither a file nor a recipe"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named_before_anything_runs(bench, name):
    change, message = REFUSED[name]
    with pytest.raises(LeapcoreError, match=message):
        cells(bench(replace=[change]))


def test_the_spec_of_a_single_run_is_recognised(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("name: x\nstudent: {backbone: vit}\n")
    with pytest.raises(SpecError, match=r"is the spec of a single run(.|\n)*leapcore run"):
        load_bench(str(path))


def test_models_that_cannot_be_built_are_named_once(bench):
    check_models(cells(bench()))
    wrong = bench(replace=[("embed_dim: 36", "embed_dims: 36")])
    with pytest.raises(SpecError, match=r"cell vit.wide.fixed.s0: student: .*embed_dims") as caught:
        check_models(cells(wrong))
    assert caught.value.cause.count("student:") == 1


# The folder


@pytest.fixture
def folder(bench, tmp_path):
    """An opened folder and its cells."""
    found = cells(bench())
    place = BenchFolder(tmp_path / "out")
    place.open(bench(), str(tmp_path / "bench.yaml"), found)
    return place, found


def finish(folder, cell, **spec):
    """Leave behind what a finished run does."""
    run = folder.run(cell).folder
    run.mkdir(parents=True)
    (run / "spec.yaml").write_text(cell.spec.model_copy(update=spec).to_yaml())
    (run / "summary.json").write_text(json.dumps({"status": "finished", "accuracy": {"knn": 0.5}}))


def test_a_matrix_may_grow_in_its_folder(folder, bench, tmp_path):
    place, found = folder
    finish(place, found[0])
    grown = cells(bench(replace=[("seeds: [0, 1]", "seeds: [0, 1, 2]")]))
    place.check(grown)
    assert place.state(grown[0]) is State.FINISHED
    assert place.state(grown[-1]) is State.WAITING
    matrix = json.loads((place.path / "matrix.json").read_text())
    assert matrix["families"] == {"teachers": {"vit": "vit"}, "students": {"narrow": "vit", "wide": "vit"}}
    assert [cell["name"] for cell in matrix["cells"]] == [cell.name for cell in found]


def test_the_matrix_in_the_folder_can_be_run_again(folder):
    place, found = folder
    written = place.path / "bench.yaml"
    before = written.read_text()
    assert cells(load_bench(str(written))) == found
    place.open(load_bench(str(written)), str(written), found)
    assert written.read_text() == before


def test_runs_of_another_matrix_are_refused(folder, bench):
    place, found = folder
    finish(place, found[1])
    other = cells(bench(replace=[("threshold: 0.5", "threshold: 0.6")]))
    with pytest.raises(OutputError, match=r"vit.narrow.leap.s0 has curriculum.threshold: 0.5, not 0.6"):
        place.check(other)
    with pytest.raises(OutputError, match=r"holds the run vit.narrow.leap.s0, which is no cell"):
        place.check(found[4:])


def test_a_cell_at_work_in_another_process_is_left_to_it(folder):
    place, found = folder
    assert place.state(found[0]) is State.WAITING
    code = "import sys; from pathlib import Path; from leapcore.runs.lock import FolderLock\n"
    code += "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, place.run(found[0]).folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert place.state(found[0]) is State.STARTING
    assert place.state(found[0]) is State.DEAD


def test_a_cell_killed_on_a_file_system_without_locks_goes_on(folder, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    place, found = folder
    run = place.run(found[0]).folder
    run.mkdir(parents=True)
    (run / ".lock").write_text("process 7 on node03\n")
    monkeypatch.setattr("fcntl.fcntl", unsupported)
    monkeypatch.setattr("fcntl.lockf", unsupported)
    assert lock.holder(run) == "process 7 on node03"
    assert place.state(found[0]) is State.DEAD


def test_what_changes_no_result_may_change(folder, bench):
    place, found = folder
    finish(place, found[0])
    place.check(cells(bench(), ["data.workers=3", "train.log_every=7", "engine.zero_stage=1"]))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="is a file"):
        BenchFolder(tmp_path / "out")


# What is shown, and how the work is shared out


def test_the_table_has_a_mark_for_each_seed(folder):
    from rich.console import Console

    place, found = folder
    finish(place, found[0])
    place.failure(found[1]).write_text("out of memory")
    console = Console(width=100, record=True)
    with BenchProgress(console, place, found, found) as progress:
        console.print(progress.table())
    rows = [
        line.split("│")[1:4] for line in console.export_text().splitlines() if "->" in line and "│" in line
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["vit -> narrow", "●· 50.00", "✗·"],
        ["vit -> wide", "··", "··"],
    ]


def test_a_terminal_sees_how_far_each_running_cell_is(folder, monkeypatch):
    import io

    from rich.console import Console

    monkeypatch.setattr("leapcore.bench.progress._REFRESH", -1)
    place, found = folder
    finish(place, found[0])
    run, text = place.run(found[1]).folder, io.StringIO()
    run.mkdir()
    with BenchProgress(Console(file=text, force_terminal=True, width=100), place, found, found) as progress:
        progress.changed(found[1], State.WAITING, True)
        progress.tick()
        assert "vit.narrow.leap.s0: starting" in text.getvalue()
        (run / "metrics.jsonl").write_text('{"step": 1, "epoch": 0.1, "loss": 1}\n{"step": 2, "ep')
        progress.tick()
        assert "vit.narrow.leap.s0: 50%" in text.getvalue()
        progress.changed(found[1], State.FINISHED, False)
        assert "2 of 8 cells finished, 0 failed; 6 to do, about 0:00:0" in text.getvalue()


@pytest.mark.parametrize(
    ("log", "code", "told"),
    [
        ("a\nError: it broke\nMend it.\n", 2, "it broke\nMend it.\n"),
        ("1\n2\n3\n4\n5\n6\n", 1, "ended with exit code 1\n2\n3\n4\n5\n6\n"),
        ("", -9, "ended by SIGKILL (the system may be short of memory)\n"),
    ],
)
def test_a_failure_is_told_by_its_error_or_its_last_words(tmp_path, log, code, told):
    (tmp_path / "log").write_text(log)
    assert failure(tmp_path / "log", code) == told


def test_jobs_share_cores_and_gpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    assert _environments(3, ["0", "4"]) == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "4"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"},
    ]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert _environments(1, []) == [{"OMP_NUM_THREADS": "5"}]


def test_a_job_array_is_a_shell_script(tmp_path):
    text = script("toy", 12, tmp_path / "my out", ["leapcore", "bench", "my spec.yaml"])
    assert "#SBATCH --array=0-11\n" in text
    assert "exec leapcore bench 'my spec.yaml' --part" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
