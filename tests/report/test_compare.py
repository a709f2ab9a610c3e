"""Runs side by side: the table, the page, and what is no run."""

import json
from pathlib import Path

import pytest
from folders import write_bench, write_run

from leapcore.report.run_comparison import read_comparison
from leapcore.runs.reader import Run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A finished run, another one, and half of a third, which all noted their FLOPs."""
    monkeypatch.chdir(tmp_path)
    for name, options in {
        "a/leap": {},
        "b/leap": {"method": "fixed", "seed": 1},
        "half": {"status": "half"},
    }.items():
        write_run(Path(name), **options)
        lines = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        noted = [line | ({"flops_spent": 1e9 * line["step"]} if "loss" in line else {}) for line in lines]
        Path(name, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in noted))
    return [Path("a/leap"), Path("b/leap"), Path("half")]


def test_the_table_holds_differences_to_the_first(runs):
    first, second, half = read_comparison(runs).table().rows
    assert first == ["a/leap", "finished", "60", "82.00", "87.00", "8.000e+11", "20.0", "64.0 s"]
    assert second[:3] == ["b/leap", "finished", "60"]
    assert second[3:] == ["80.40 (−1.60)", "85.40 (−1.60)", "1.000e+12 (+25.0 %)", "0.0", "80.0 s (+25.0 %)"]
    assert half == ["half", "dead", "30", "–", "–", "3.000e+10", "–", "–"]


def test_the_command_prints_tables_and_writes_a_page_that_marks_the_unfinished(runs, leapcore_):
    code, printed, errors = leapcore_("compare", *map(str, runs))
    assert (code, errors) == (0, "")
    assert printed.endswith("compare.html\n")
    for piece in ("80.40 (−1.60)", "curriculum.threshold", "dead"):
        assert piece in printed
    page = Path("compare.html").read_text()
    for piece in (
        "<h2>Settings that differ</h2>",
        "<td>train.seed</td><td>0</td><td>1</td><td>0</td>",
        "half (dead)",
        "over the FLOPs of training",
        "training FLOPs spent, 10^9",
        "target depth",
    ):
        assert piece in page
    assert leapcore_("compare", *map(str, runs), "--output", "no/such/x.html")[0] == 2


def test_flops_lie_between_two_reports(runs):
    run = Run(runs[0])
    assert run.spent_at([0, 15, 60]) == [0.0, 15e9, 60e9]
    assert all(spent != spent for spent in Run(Path("nowhere")).spent_at([1, 2]))


def test_a_run_that_did_not_note_its_flops_is_drawn_over_steps(tmp_path):
    document = read_comparison(
        [write_run(tmp_path / "a"), write_run(tmp_path / "b", status="half")]
    ).document()
    (curves,) = [section.blocks[0] for section in document.sections if section.title == "Learning curves"]
    assert len(curves.panels) == 1
    assert "missing over these" in curves.caption


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/leap"], "only a/leap is named"),
        (["a/leap", "gone"], "folder 'gone' does not exist"),
        (["a/leap", "a"], "folder 'a' holds no run"),
        (["a/leap", "bench"], "holds a bench, not a run"),
        (["a/leap", "b/../a/leap"], "a run is named twice"),
    ],
)
def test_what_cannot_be_compared_is_named(runs, leapcore_, tmp_path, arguments, message):
    if "bench" in arguments:
        write_bench(tmp_path / "bench", teachers=("vit",), students=("vit",), methods=("fixed",), seeds=(0,))
    code, _, errors = leapcore_("compare", *arguments)
    assert (code, message in errors) == (2, True)
    assert len(errors.splitlines()) == 2
    assert not Path("compare.html").exists()
