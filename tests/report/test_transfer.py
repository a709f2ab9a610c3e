"""What the transfer benchmark keeps in the repository: its rows, and the page's tables and pictures of them."""

import csv
import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest
from folders import write_bench

from leapcore.bench.matrix import cells
from leapcore.bench.spec import load_bench

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "transfer"
HERE = ["data.source=digits", "data.root=null"]  # the real images lie elsewhere
SVG = "{http://www.w3.org/2000/svg}"


def script(name):
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["spec", "ablations", "remedies"])
def test_every_cell_has_its_row(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    wanted = load_bench(f"benchmarks/transfer/{name}.yaml")
    file = FOLDER / "results" / ("transfer.csv" if name == "spec" else f"{name}.csv")
    with file.open() as lines:
        rows = {row["name"]: row["status"] for row in csv.DictReader(lines)}
    assert rows == {cell.name: "finished" for cell in cells(wanted, HERE)}


@pytest.mark.parametrize("name", ["transfer", "ablations", "remedies"])
def test_the_page_tells_what_the_rows_say(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tables.py", str(FOLDER / "results" / f"{name}.csv")])
    script("tables").main()
    page = (ROOT / "docs" / "transfer.md").read_text().splitlines()
    told = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(told) > 5
    assert [line for line in told if line not in page] == []


def test_the_pictures_hold_every_panel_of_the_report(tmp_path, monkeypatch):
    write_bench(tmp_path / "bench")
    monkeypatch.setattr("sys.argv", ["pictures.py", str(tmp_path / "bench"), str(tmp_path)])
    script("pictures").main()
    drawn = {
        name: ElementTree.parse(tmp_path / f"{name}.svg")
        for name in ("transfer-differences", "transfer-cost", "transfer-walks")
    }
    labels = {
        name: [inner.get("aria-label").partition(":")[0] for inner in sheet.findall(f"{SVG}svg")]
        for name, sheet in drawn.items()
    }
    pairs = ["vit → vit", "vit → hybrid", "convnext → vit", "convnext → hybrid"]
    legend = ["fixed", "leap", "random"]
    assert labels == {
        "transfer-differences": ["leap", "random"],
        "transfer-cost": pairs + legend,
        "transfer-walks": pairs + legend,
    }
    for sheet in drawn.values():
        ids = [element.get("id") for element in sheet.iter() if element.get("id")]
        assert len(ids) == len({*ids})
