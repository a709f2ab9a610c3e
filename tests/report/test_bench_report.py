"""A bench's report: its numbers, its escaping, and what it does with folders that are not whole."""

import csv
import json
import re

import numpy
import pytest
from folders import knn, write_bench
from scipy import stats

from leapcore.bench.report import write_bench_report
from leapcore.bench.results import read_bench, write_rows
from leapcore.errors import ReportError
from leapcore.report.numbers import percent, signed
from leapcore.report.statistics import estimate, paired, pareto_front

EVIL = "<script>alert(1)</script>"


def patchy(cell):
    """One pair has a single seed, one method lacks a seed, others failed or are waiting."""
    if cell["teacher"] == "convnext" and cell["student"] == "hybrid":
        return "finished" if cell["seed"] == 0 else "waiting"
    if cell["method"] == "random":
        return {0: "finished", 1: "failed", 2: "half"}[cell["seed"]]
    return "finished"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = write_bench(tmp_path_factory.mktemp("bench") / "b", state=patchy)
    write_bench_report(folder)
    return folder


def table_rows(folder):
    text = re.findall(r"<tr[^>]*>(.*?)</tr>", (folder / "report.html").read_text())
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in text]


def test_intervals_are_students():
    values = [0.81, 0.84, 0.79, 0.86]
    low, high = stats.t.interval(0.95, 3, numpy.mean(values), stats.sem(values))
    found = estimate(values)
    assert found.mean == pytest.approx(numpy.mean(values))
    assert found.half == pytest.approx((high - low) / 2)


def test_one_value_has_no_interval_and_no_verdict():
    found = estimate([0.5])
    assert numpy.isnan(found.half)
    assert found.verdict == ""


def test_a_rounded_zero_has_no_minus():
    assert [signed(-0.00001), signed(-0.0001), percent(-0.0004, 1), percent(-0.0006, 1)] == [
        "+0.00",
        "−0.01",
        "0.0",
        "−0.1",
    ]


def test_differences_are_paired_over_the_seeds_that_both_have():
    found = paired({0: 0.9, 1: 0.8, 3: 0.1}, {0: 0.8, 1: 0.6, 2: 0.9})
    assert (found.n, found.mean) == (2, pytest.approx(0.15))


def test_verdicts_follow_the_interval():
    assert estimate([0.1, 0.11, 0.09]).verdict == "higher"
    assert estimate([-0.1, -0.11, -0.09]).verdict == "lower"
    assert estimate([0.1, -0.1, 0.05]).verdict == "none"
    assert estimate([0.0, 0.0]).verdict == "none"


def test_the_pareto_front_leaves_out_what_is_beaten():
    assert pareto_front([(3, 5), (1, 2), (2, 1), (2, 4), (4, 5)]) == [(1, 2), (2, 4), (3, 5)]


def test_the_table_says_what_scipy_says(bench):
    rows = table_rows(bench)
    leap = next(row for row in rows if row[1:2] == ["leap"])
    values = numpy.array([knn("leap", seed) for seed in range(3)])
    deltas = values - [knn("fixed", seed) for seed in range(3)]
    half, delta = (stats.t.ppf(0.975, 2) * stats.sem(v) for v in (values, deltas))
    assert leap[2:5] == [
        "3 of 3",
        f"{100 * values.mean():.2f} ± {100 * half:.2f}",
        f"{100 * deltas.mean():+.2f} ± {100 * delta:.2f}",
    ]
    assert leap[7:] == ["21.0", "21.0"]


def test_one_seed_has_neither_interval_nor_verdict(bench):
    random = next(row for row in table_rows(bench) if row[1:2] == ["random"])
    assert random[2:5] == ["1 of 3", "77.00", "−3.00"]


def test_the_summary_counts_cells_and_verdicts(bench):
    (summary,) = re.findall(r'<p class="summary">(.*?)</p>', (bench / "report.html").read_text())
    assert (
        "4 teacher–student pairs × 3 methods: 24 of 36 cells finished (3 failed, 3 dead, 6 waiting)."
        in summary
    )
    assert "leap: kNN better in 3, not judged (one seed) in 1 of 4 pairs;" in summary
    assert "random: kNN not judged (one seed) in 4 of 4 pairs;" in summary


def test_what_the_matrix_leaves_out_has_no_row(tmp_path):
    def planned(cell):
        return cell["method"] == "fixed" or (cell["method"] == "leap") == (cell["student"] == "vit")

    write_bench_report(write_bench(tmp_path / "b", teachers=("vit",), planned=planned))
    told = [row[:3] for row in table_rows(tmp_path / "b") if row[2:3] == ["3 of 3"]]
    assert told == [
        ["vit → vit", "fixed", "3 of 3"],
        ["", "leap", "3 of 3"],
        ["vit → hybrid", "fixed", "3 of 3"],
        ["", "random", "3 of 3"],
    ]
    page = (tmp_path / "b" / "report.html").read_text()
    assert "0 of 0" not in page
    assert "leap: kNN better; linear probe better. random: kNN worse; linear probe worse." in page


def test_unfinished_cells_are_told_with_their_errors(bench):
    page = (bench / "report.html").read_text()
    assert "Error: out of &lt;memory&gt; &amp; luck" in page
    assert "vit.vit.random.s1: the whole error" in page
    assert "Waiting: convnext.hybrid.fixed.s1," in page


def test_the_page_needs_nothing_else(bench):
    page = (bench / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)[^"']*""", re.sub(r'xmlns:xlink="[^"]*"', "", page))
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)


def test_markdown_has_the_same_table(bench):
    text = (bench / "report.md").read_text()
    assert "[report.html](report.html)" in text
    assert "| vit → vit | fixed | 3 of 3 | 80.40 ± 0.99 | – |" in text
    assert "out of &lt;memory&gt; &amp; luck" in text


def test_rows_are_tidy_and_complete(bench):
    rows = list(csv.DictReader((bench / "results.csv").open()))
    assert [row["name"] for row in rows] == [cell.plan.name for cell in read_bench(bench).cells]
    by_name = {row["name"]: row for row in rows}
    done, failed = by_name["vit.vit.leap.s1"], by_name["vit.vit.random.s1"]
    assert (done["status"], done["target_layer"], done["advances"]) == ("finished", "5", "4")
    assert float(done["accuracy_knn"]) == pytest.approx(knn("leap", 1))
    assert float(done["flops_saved"]) == pytest.approx(0.21)
    assert (done["machine_device"], done["flops_teacher"]) == ("cpu", str(0.5e12 * 0.79))
    assert (failed["status"], failed["error"], failed["accuracy_knn"]) == (
        "failed",
        "Error: out of <memory> & luck",
        "",
    )
    assert by_name["vit.vit.random.s2"]["status"] == "dead"
    assert by_name["convnext.hybrid.leap.s2"]["status"] == "waiting"


def test_parquet_holds_the_same_rows(bench):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(bench / "results.parquet")
    assert table.num_rows == 36
    assert table.column("accuracy_knn").null_count == 12


def test_without_pyarrow_there_is_no_parquet(bench, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    folder = write_bench(tmp_path / "b", ("vit",), ("vit",), seeds=(0,))
    assert [path.name for path in write_rows(folder)] == ["results.csv"]


def test_names_and_errors_are_escaped_everywhere(tmp_path):
    folder = write_bench(
        tmp_path / "b",
        ("vit",),
        ("vit", "a|b"),
        ("fixed", "$x_{}$" + EVIL.replace("/", "")),
        seeds=(0, 1),
        state=lambda c: "failed" if c["seed"] else "finished",
    )
    (folder / "logs/vit.vit.fixed.s1.failed").write_text(f"{EVIL}\n```\n{EVIL}")
    (folder / "bench.yaml").write_text(EVIL)
    write_bench_report(folder)
    assert "<script" not in (folder / "report.html").read_text()
    words = re.sub(
        r"^(`{3,})\n.*?^\1$", "", (folder / "report.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    assert "<script" not in words
    assert r"a\|b" in words


def test_without_a_baseline_nothing_is_compared(tmp_path):
    folder = write_bench(tmp_path / "b", seeds=(0, 1))
    matrix = json.loads((folder / "matrix.json").read_text())
    (folder / "matrix.json").write_text(json.dumps(matrix | {"baseline": None}))
    write_bench_report(folder)
    page = (folder / "report.html").read_text()
    assert "no baseline" in page
    assert "Δ" not in page


def test_a_bench_that_has_not_begun_has_a_page(tmp_path):
    folder = write_bench(tmp_path / "b", state=lambda cell: "waiting")
    assert "0 of 36 cells finished (36 waiting)" in write_bench_report(folder).summary
    assert "<svg" not in (folder / "report.html").read_text()
    assert len(list(csv.DictReader((folder / "results.csv").open()))) == 36


def test_damaged_files_are_passed_over(tmp_path):
    folder = write_bench(tmp_path / "b", ("vit",), ("vit",), seeds=(0, 1))
    runs = folder / "runs"
    with (runs / "vit.vit.leap.s0/metrics.jsonl").open("a") as file:
        file.write('{"step": "x"}\n[1]\n{"event": "target_changed", "step": 3}\n{"step": 5, "lo')
    with (runs / "vit.vit.leap.s0/cka_maps.jsonl").open("a") as file:
        file.write('{"step": 5, "student_layers": ["a"], "teacher_layers": ["b"], "cka": [[1, 2]]}\n{"step"')
    (runs / "vit.vit.leap.s1/summary.json").write_bytes(b'{"status": "fini\xff')
    (runs / "vit.vit.random.s1/summary.json").write_text('{"status": 3, "flops": []}')
    (runs / "vit.vit.fixed.s0/spec.yaml").write_text("a: [1,\n b: {")
    assert "4 of 6 cells finished (2 dead)" in write_bench_report(folder).summary


@pytest.mark.parametrize("matrix", ["", "[]", '{"cells": 3}'])
def test_a_damaged_matrix_is_told(tmp_path, matrix):
    (tmp_path / "matrix.json").write_text(matrix)
    with pytest.raises(ReportError, match="missing or damaged"):
        write_bench_report(tmp_path)


def test_a_bench_without_cells_is_told(tmp_path):
    (tmp_path / "matrix.json").write_text('{"teachers": [], "students": [], "methods": [], "cells": []}')
    with pytest.raises(ReportError, match="no cells"):
        write_bench_report(tmp_path)


def test_rows_replace_the_file_whole(tmp_path):
    folder = write_bench(tmp_path / "b", ("vit",), ("vit",), seeds=(0,))
    (folder / "results.csv").write_text("old")
    write_rows(folder)
    assert (folder / "results.csv").read_text().startswith("name,teacher,student,method,seed,")
    assert not list(folder.glob(".*"))
