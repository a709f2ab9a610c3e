"""The recipes of the paper's runs are what they say, and docs/paper.md shows what counting gives."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from shared import PAPER_SAVINGS

from leapcore import Distiller, load_spec
from leapcore.core.duration import RunLength
from leapcore.errors import DataError
from leapcore.plugins.loader import installed_plugins
from leapcore.recipes import recipe_names, recipe_summary

ROOT = Path(__file__).parents[1]
THRESHOLDS = {"imagenet100": 0.85, "imagenet1k": 0.8}
RUNS = [f"{student}-{data}" for student in ("vits14", "vitt14") for data in THRESHOLDS]
RECIPES = [f"{kind}-{run}" for kind in ("leap", "fixed") for run in RUNS]

TEACHER = {"depth": 40, "width": 1536, "parameters": 1_134_769_664}
STUDENTS = {
    "vits14": {"depth": 12, "width": 384, "parameters": 21_628_800},
    "vitt14": {"depth": 12, "width": 192, "parameters": 5_501_376},
}
HEADS = {"vits14": 6, "vitt14": 3}


@pytest.fixture
def empty_data(tmp_path, monkeypatch):
    """A working directory that has the recipes' folders, with no image in them."""
    for data in THRESHOLDS:
        for split in ("train", "val"):
            (tmp_path / "data" / data / split).mkdir(parents=True)
            (tmp_path / "data" / data / split / "0.png").touch()
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def script():
    location = importlib.util.spec_from_file_location("paper_flops", ROOT / "benchmarks/paper_flops.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


def _on_meta(backbone, image_size):
    with torch.device("meta"):
        return installed_plugins().get("backbones", backbone.backbone)(
            model=backbone.model, weights="none", image_size=image_size, options=backbone.options
        )


def _shape(provider):
    return {
        "depth": len(provider.layers),
        "width": provider.layers[-1].channels,
        "parameters": sum(p.numel() for p in provider.parameters()),
    }


def test_there_are_eight():
    assert set(RECIPES) == {name for name in recipe_names() if "imagenet" in name}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_once_its_data_is_there(empty_data, name):
    spec = load_spec(name)
    assert spec.name == name
    assert recipe_summary(name).endswith(".")
    assert (spec.optimizer.lr, spec.optimizer.reference_batch, spec.train.batch_size) == (6, 1536, 256)
    assert spec.teacher.weights == "pretrained"


@pytest.mark.parametrize("name", RECIPES)
def test_without_its_data_a_recipe_says_what_is_missing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=f"data.train: folder 'data/{name.split('-')[-1]}/train' does not exist"
    ):
        load_spec(name)


@pytest.mark.parametrize("run", RUNS)
def test_the_baseline_differs_in_name_and_curriculum_only(empty_data, run):
    leap, fixed = (load_spec(f"{kind}-{run}").model_dump() for kind in ("leap", "fixed"))
    assert {key for key in leap if leap[key] != fixed[key]} == {"name", "curriculum"}
    assert fixed["curriculum"] == {"scheduler": "fixed", "layer": "last"}
    papers = {
        "scheduler": "cka",
        "threshold": THRESHOLDS[run.split("-")[1]],
        "ema": 1.0,
        "max_time_per_layer": "5ep",
        "start": "calibrate",
        "snap_to_last_at": None,
    }
    assert papers.items() <= leap["curriculum"].items()


@pytest.mark.parametrize("run", RUNS)
def test_the_models_have_the_papers_shapes(empty_data, run):
    """Baselines have the same models, as the test above shows."""
    spec, student = load_spec(f"leap-{run}"), run.split("-")[0]
    teacher_model, student_model = (_on_meta(b, spec.data.image_size) for b in (spec.teacher, spec.student))
    assert _shape(teacher_model) == TEACHER
    assert _shape(student_model) == STUDENTS[student]
    assert student_model.model.blocks[0].attn.num_heads == HEADS[student]
    for provider in (teacher_model, student_model):
        assert {layer.stride for layer in provider.layers} == {14}
        assert provider.model.num_prefix_tokens == 1
        assert provider.image_input.size == (224, 224)
        assert provider.image_input.mean == (0.485, 0.456, 0.406)


def test_the_script_finds_the_savings_computed_before(script):
    for start, row in PAPER_SAVINGS.items():
        found = [script.saving(start, limit) for limit in script.LIMITS]
        # Both sides are rounded, and the projector that the script adds costs up to 0.04 points.
        assert found == pytest.approx(row, abs=0.1), start


def test_the_script_counts_as_a_run_does(empty_data, script):
    from leapcore.distributed.ranks import Ranks
    from leapcore.train.build import build_teacher
    from leapcore.train.costs import StepCosts, student_macs, teacher_costs

    provider, student = script.on_meta(script.AS_TABLE.teacher), script.on_meta(script.AS_TABLE.student)
    spec = load_spec("leap-vits14-imagenet100")
    with torch.device("meta"):
        teacher = build_teacher(spec, "teacher", provider, student, RunLength(1, 1), Ranks())
    distiller = Distiller(student, {"teacher": teacher.match})
    counts = teacher_costs(provider, student, teacher.match, teacher.alignment)
    costs = StepCosts(spec.train.batch_size, student_macs(distiller), {"teacher": counts})
    assert script.empty_ledger(script.AS_TABLE) == costs.ledger()


def test_the_mean_block_and_the_lead(script):
    assert script.mean_block(script.REPORTED) == pytest.approx(29.3, abs=0.05)
    assert script.mean_block(script.saving(20, 5)) == pytest.approx(29.5)  # five epochs at each of 20 to 39
    assert script.saving(1, 100) == pytest.approx(script.saving(1, 1000))
    assert script.saving(40, 5) == 0
    as_s16 = script.Setting(student="vit_small_patch16_224", projector=False)
    assert script.saving(20, 5, as_s16) == pytest.approx(25.07, abs=0.005)


def test_a_start_deeper_than_20_cannot_save_what_is_reported(script):
    assert script.saving(21, 5) < script.REPORTED < script.saving(19, 5)


def test_the_page_shows_what_the_script_prints(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["paper_flops.py"])
    script.main()
    page = (ROOT / "docs/paper.md").read_text()
    for table in capsys.readouterr().out.strip().split("\n\n"):
        assert table in page
    for start in (19, 21):
        assert f"{script.saving(start, 5):.1f} %" in page
    price = script.saving(20, 5) - script.saving(20, 5, script.Setting(alignment=True))
    assert f"{price:.1f} points" in page
    assert f"{script.saving(19, 5) - script.REPORTED:.1f} points" in page


def test_a_single_value(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["paper_flops.py", "--start", "20", "--epochs-per-block", "5"])
    script.main()
    assert capsys.readouterr().out == "24.68\n"
    monkeypatch.setattr(sys, "argv", ["paper_flops.py", "--start", "20"])
    with pytest.raises(SystemExit):
        script.main()
    assert "given together" in capsys.readouterr().err
