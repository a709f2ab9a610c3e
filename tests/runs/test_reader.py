"""What is read of a run's folder: the records that the run wrote, of any version, and how far it is."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from leapcore.errors import OutputError
from leapcore.plugins.events import CkaMap, TargetChange
from leapcore.runs.find import cell_run, runs_in
from leapcore.runs.folder import RunFolder
from leapcore.runs.lock import FolderLock
from leapcore.runs.reader import Run
from leapcore.runs.state import State

OTHER = "import sys; from pathlib import Path; from leapcore.runs.reader import Run; print(Run(Path(sys.argv[1])).process)"


def holder_as_others_see_it(folder):
    command = [sys.executable, "-c", OTHER, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_run_wrote_is_read_back(small_run):
    run = Run(small_run)
    written = json.loads((small_run / "summary.json").read_text())
    assert json.loads(json.dumps(asdict(run.summary), default=str)) == written
    assert run.summary.curriculum == run.changes
    assert (run.state, run.steps, run.depth("teacher")) == (State.FINISHED, 4, 12)
    assert run.accuracy["knn"] == run.summary.accuracy["knn"]


def test_an_older_or_damaged_summary_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / "summary.json").write_text('{"status": "finished", "flops": {"saved": 0.5}, "unknown": 1}')
    summary = Run(tmp_path).summary
    assert (summary.status, summary.flops["saved"], summary.steps) == ("finished", 0.5, 0)
    assert summary.flops["spent"] != summary.flops["spent"], "it is not known"
    (tmp_path / "summary.json").write_text('{"status": "finished", "steps": "many"}')
    assert Run(tmp_path).state is State.DEAD
    assert Run(tmp_path / "none").state is State.WAITING


def test_changes_and_maps_are_read_as_the_events_that_they_were(tmp_path):
    change, cka = TargetChange(3, 1, 2, "why", alignment=0.5, flops_saved=0.25), {"cka": [[0.5, 0.25]]}
    lines = [{"event": "target_changed", **asdict(change)}, {"event": "target_changed", "step": 4}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    layers = {"student_layers": ["a"], "teacher_layers": ["b", "c"]}
    maps = [{"step": 8, **layers, **cka}, {"step": 9, **layers, "cka": [[0.5]]}, {"step": 2, **layers, **cka}]
    (tmp_path / "cka_maps.jsonl").write_text("\n".join(map(json.dumps, maps)))
    run = Run(tmp_path)
    assert run.changes == [change]
    assert run.maps == [(step, CkaMap("teacher", 0, ["a"], ["b", "c"], [[0.5, 0.25]])) for step in (2, 8)]
    with pytest.raises(ValueError, match="a row per student layer"):
        CkaMap("teacher", 9, ["a"], ["b", "c"], [[0.5]])


def test_a_benchmark_notes_that_a_cells_last_try_failed(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.failed").write_text("out of memory\nmore\n")
    run = cell_run(tmp_path, "a")
    assert (run.state, run.error) == (State.FAILED, "out of memory\nmore")
    run.folder.mkdir(parents=True)
    (run.folder / "summary.json").write_text('{"status": "finished", "error": "an old one"}')
    run = cell_run(tmp_path, "a")
    assert (run.state, run.error) == (State.FINISHED, "")


@pytest.mark.parametrize("matrix", ['{"cells": 3}', '{"cells": [1]}', "[]", '{"cells": ['])
def test_a_damaged_matrix_has_no_runs(tmp_path, matrix, leapcore_):
    (tmp_path / "matrix.json").write_text(matrix)
    code, _, errors = leapcore_("status", ".")
    assert (code, "holds no run" in errors) == (2, True)


def test_a_process_may_read_the_run_whose_folder_it_holds(tmp_path):
    lock = FolderLock(tmp_path / "run")
    (tmp_path / "run/summary.json").write_text('{"status": "interrupted"}')
    assert (Run(tmp_path / "run").process, Run(tmp_path / "run").state) == ("", State.INTERRUPTED)
    assert holder_as_others_see_it(tmp_path / "run").startswith("process "), "it still holds it"
    lock.release()
    assert holder_as_others_see_it(tmp_path / "run") == ""
    assert runs_in(tmp_path) == [Run(tmp_path / "run")]


def test_of_several_processes_one_writes(tmp_path, spec_file):
    from leapcore import load_spec

    spec, path = load_spec(spec_file), tmp_path / "run"
    first, second = RunFolder(path), RunFolder(path, writes=False)
    first.open(spec)
    before = sorted(path.iterdir())
    second.open(spec)
    second.write_student(lambda folder: folder.mkdir())
    second.write_summary(Run(path).summary)
    second.settle()
    second.abandon()
    second.close()
    assert sorted(path.iterdir()) == before
    assert (second.saved(), second.is_finished(spec), second.student) == (None, False, first.student)
    first.close()
    with pytest.raises(OutputError, match="already holds a dead run"):
        RunFolder(path)
