"""leapcore as a library: specs built in code, the pages and the notebook that show it."""

import json
import re
from pathlib import Path

import pytest

import leapcore
from leapcore import LeapcoreError, Spec, build_scheduler, load_spec, run
from leapcore.core.duration import Duration, RunLength

ROOT = Path(__file__).parents[1]
KEYS = {
    "name": "mine",
    "teacher": {"backbone": "vit", "weights": "asset:digits-vit"},
    "student": {"backbone": "vit", "model": "vit_tiny_patch16_224"},
    "data": {"source": "digits", "image_size": 32},
}


def _but(**changes):
    """The keys with some changed: ``data__source`` is the one of the section."""
    keys = json.loads(json.dumps(KEYS))
    for path, value in changes.items():
        *sections, last = path.split("__")
        node = keys
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return keys


def _said(act):
    with pytest.raises(LeapcoreError) as told:
        act()
    return str(told.value), type(told.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"studnet": {}},
        {"student__weight": "none"},
        {"data__image_size": -1},
        {"train__duration": "5 epochs"},
        {"optimizer__restart": {"scale": 0.5}},
        {"objective": {"cls_head": "separate", "cls_weight": 0}},
        {"curriculum__threshhold": 0.9},
        {"data__source": "digit"},
        {"student__backbone": "vitt"},
        {"student__weights": "/nowhere.safetensors"},
        {"listeners": ["tensorbord"]},
    ],
)
def test_a_spec_in_code_is_refused_with_the_words_of_the_file(changes, tmp_path):
    keys = _but(**changes)
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(keys, indent=1))  # which is YAML too
    file, kind = _said(lambda: load_spec(path))
    words = re.sub(rf"{re.escape(str(path))}:\d+: ", "", file)
    assert _said(lambda: load_spec(keys)) == (words, kind)
    assert _said(lambda: run(Spec(**keys), output=tmp_path / "run")) == (words, kind)
    assert not (tmp_path / "run").exists()


def test_a_spec_in_code_is_that_of_the_file(tmp_path):
    keys = _but(data__train=Path("data/train"), train__duration=Duration(5, "ep"))
    built = load_spec(Spec(**keys))
    (tmp_path / "spec.yaml").write_text(built.to_yaml())
    assert load_spec(tmp_path / "spec.yaml") == built == load_spec(keys)
    assert built.data.train == "data/train"
    assert load_spec(keys, ["train.seed=3"]).train.seed == 3


def test_every_public_name_is_there():
    assert all(hasattr(leapcore, name) for name in leapcore.__all__)


def test_a_scheduler_by_name_takes_a_specs_options():
    scheduler = build_scheduler("cka", 12, max_time_per_layer="3st", start=2, run=RunLength(10, 5))
    assert (scheduler.max_time_per_layer, scheduler.target, scheduler.run.total_steps) == ((3, "st"), 1, 10)
    with pytest.raises(
        LeapcoreError, match=r"the scheduler 'cka': treshold: unknown key\. Did you mean 'thr"
    ):
        build_scheduler("cka", 12, treshold=0.9)


def test_the_page_on_python_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL):
        exec(block, names)
    printed = capsys.readouterr().out
    assert "edge: finished" in printed  # progress=True
    assert "student.weight: unknown key. Did you mean 'weights'?" in printed
    assert "[8, 16, 72]" in printed
    assert "layer 3 of 12: time is up" in printed
    assert (tmp_path / "runs/own/student/config.json").exists()
    loop = (ROOT / "docs/api.md").read_text().split("## A training loop")[1].split("```")[1]
    body = loop.split("torch.manual_seed(0)")[1]
    assert len(body.strip().splitlines()) <= 32  # "about 30 lines"


def test_the_notebook_runs_and_keeps_small_outputs(monkeypatch, tmp_path):
    path = ROOT / "examples/leapcore.ipynb"
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < 100_000
    assert all(cell["outputs"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    code = "\n".join("".join(cell["source"]) for cell in cells)
    short = {"15ep": "4st", "time_per_layer=1ep": "time_per_layer=2st", "knn=3ep": "knn=2st"}
    for long, quick in short.items():
        assert long in code
        code = code.replace(long, quick)
    exec(code.replace('"evaluate.knn', '"optimizer.warmup=1st", "evaluate.linear=never", "evaluate.knn'), {})
    assert (tmp_path / "runs/notebook/summary.json").exists()
