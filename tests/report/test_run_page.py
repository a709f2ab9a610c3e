"""A run's page, from the command line and at the end of a run."""

import json
from types import SimpleNamespace

import pytest
from folders import write_run

from leapcore import load_spec, run
from leapcore.listeners.pages import ReportPage
from leapcore.report.figures.curves import averaged
from leapcore.report.figures.style import styles
from leapcore.report.run_report import write_run_report
from leapcore.runs.folder import RunFolder
from leapcore.runs.names import REPORTS
from leapcore.runs.reader import Run

SHORT = [
    "train.duration=4st",
    "optimizer.warmup=1st",
    "train.log_every=1",
    "evaluate.linear=never",
    "checkpoint.every=2st",
]


def test_a_runs_page_has_every_chapter(tmp_path):
    write_run_report(write_run(tmp_path / "leap"))
    page = (tmp_path / "leap/report.html").read_text()
    for title in (
        "Result",
        "Way through the teacher",
        "Learning curves",
        "Speed",
        "CKA of all layers",
        "Settings",
        "Versions and machine",
    ):
        assert f"<h2>{title}</h2>" in page
    assert '<td>kNN</td><td class="figure">82.00</td><td class="figure">95.00</td>' in page
    assert "20.0 % fewer" in page


def test_a_curve_has_the_reports_alone(tmp_path):
    folder = write_run(tmp_path / "leap")
    reported = Run(folder).alignment("teacher")
    with (folder / "metrics.jsonl").open("a") as file:  # an event tells the average of one moment
        file.write('{"event": "target_changed", "step": 60, "previous": 4, "target": 5, "alignment": 0.1}\n')
    assert Run(folder).alignment("teacher") == reported
    assert len(reported[0]) == 60


def test_an_unfinished_run_is_drawn_as_far_as_it_is(tmp_path):
    write_run_report(write_run(tmp_path / "leap", status="half"))
    page = (tmp_path / "leap/report.html").read_text()
    assert "The run died after 30 steps." in page
    assert "<h2>Result</h2>" not in page
    assert "<h2>Learning curves</h2>" in page


def test_several_teachers_have_their_own_ways(tmp_path):
    folder = write_run(tmp_path / "two")
    lines = [
        {"event": "target_changed", "step": 0, "previous": 0, "target": 1, "teacher": "dino"},
        {"event": "target_changed", "step": 0, "previous": 0, "target": 2, "teacher": "clip"},
        {"step": 4, "alignment/dino": 0.5, "alignment/clip": 0.25},
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    summary = json.loads((folder / "summary.json").read_text())
    summary["teachers"] = {"dino": {"layers": 4, "parameters": 1}, "clip": {"layers": 8, "parameters": 1}}
    summary["accuracy"] = {"knn": 0.5, "teacher_knn/dino": 0.75, "teacher_knn/clip": 0.625}
    (folder / "summary.json").write_text(json.dumps(summary))
    two = Run(folder)
    assert two.alignment("clip") == ([4], [0.25])
    assert two.walk("clip")[1] == [2]
    write_run_report(folder)
    assert "dino 75.00, clip 62.50" in (folder / "report.html").read_text()


def test_long_curves_become_means_of_neighbours():
    xs, ys = averaged(range(401), [float(x % 2) for x in range(401)])
    assert len(xs) <= 200
    assert (xs[0], ys[0]) == (1.0, pytest.approx(1 / 3))
    assert averaged([1, 2], [3.0, 4.0]) == ([1.0, 2.0], [3.0, 4.0])


def test_methods_differ_without_colour():
    looks = styles(["fixed", *"abcdefgh"], "fixed")
    assert len({(look.line, look.marker) for look in looks.values()}) == 9


@pytest.mark.parametrize(("content", "message"), [(None, "is no folder"), ("notes.txt", "neither a bench")])
def test_the_command_names_what_is_missing(leapcore_, tmp_path, content, message):
    if content:
        (tmp_path / "odd").mkdir()
        (tmp_path / "odd" / content).touch()
    code, _, errors = leapcore_("report", "odd")
    assert code == 2
    assert message in errors


def test_the_command_says_where_the_page_is(leapcore_, tmp_path):
    write_run(tmp_path / "mine")
    code, printed, _ = leapcore_("report", "mine")
    assert code == 0
    assert printed == "mine/report.html\nThe run finished after 60 steps.\n"


def test_a_run_writes_its_page_and_resuming_takes_it_back(tmp_path):
    folder = tmp_path / "r"
    run(load_spec("quickstart", SHORT), output=folder)
    assert "The run finished after 4 steps." in (folder / "report.html").read_text()
    (folder / "report.md").touch()
    reopened = RunFolder(folder, resume="latest")
    reopened.open(load_spec("quickstart", SHORT), 2)
    reopened.close()
    assert not any((folder / name).exists() for name in REPORTS)


def test_a_page_that_fails_does_not_harm_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("leapcore.report.output_files.write_page", lambda *_: 1 / 0)
    ReportPage(write_run(tmp_path / "leap")).leapcore_run_finished(report=SimpleNamespace(status="finished"))
    assert "report.html was not written: division by zero" in caplog.text


def test_one_of_several_processes_that_fails_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    folder = write_run(tmp_path / "leap", status="half")
    ReportPage(folder).leapcore_run_finished(report=SimpleNamespace(status="failed"))
    assert not (folder / "report.html").exists()
