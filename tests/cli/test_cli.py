"""The command line as a user meets it: output, exit codes, and a cause with a remedy for every mistake."""

import json
import pickle
import re
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

import leapcore.plugins.loader
from leapcore.cli import app


def _images(folder, classes=("a", "b"), count=2):
    for split in ("train", "val"):
        for label in classes:
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (16, 16)).save(folder / split / label / f"{index}.png")


def test_run_shows_progress_and_a_summary(leapcore_):
    code, out, err = leapcore_(
        "run", "spec.yaml", "--set", "evaluate.knn=end", "--set", "evaluate.teacher=true"
    )
    assert (code, err) == (0, "")
    for piece in (
        "teacher",
        "student",
        "starts at layer",
        "kNN accuracy",
        "(teacher 98.61%)",
        "FLOPs saved",
        "load the student in Python:",
    ):
        assert piece in out
    assert Path("runs/mine/summary.json").exists()


def test_the_resolved_spec_runs_again(leapcore_):
    assert leapcore_("run", "spec.yaml")[0] == 0
    assert leapcore_("run", "runs/mine/spec.yaml", "--output", "again")[0] == 0
    assert Path("again/spec.yaml").read_text() == Path("runs/mine/spec.yaml").read_text()


def test_eval_takes_a_student_folder_and_a_teacher(leapcore_):
    code, out, _ = leapcore_("run", "spec.yaml", "--set", "evaluate={knn: end, linear: end}")
    assert code == 0
    for name, label in (("knn", "kNN accuracy"), ("linear", "linear probe accuracy")):
        share = re.search(rf"{label} +│ ([\d.]+%)", out)[1]
        assert f"{label}: {share}" in leapcore_("eval", name, "runs/mine/student", "--spec", "spec.yaml")[1]
    assert leapcore_("eval", "knn", "teacher", "--spec", "spec.yaml")[1] == "kNN accuracy: 98.61%\n"


def test_eval_retrieval_on_a_small_data_set_in_the_published_layout(leapcore_, tmp_path):
    (tmp_path / "tiny" / "jpg").mkdir(parents=True)
    for name in ("a", "b", "query"):
        picture = Image.effect_noise((40, 40), 90 if name == "b" else 5).convert("RGB")
        picture.save(tmp_path / "tiny" / "jpg" / f"{name}.jpg")
    answers = {"bbx": [0.0, 0.0, 40.0, 40.0], "easy": [0], "hard": [], "junk": []}
    truth = {"imlist": ["a", "b"], "qimlist": ["query"], "gnd": [answers]}
    (tmp_path / "tiny" / "gnd_tiny.pkl").write_bytes(pickle.dumps(truth))
    code, out, err = leapcore_("eval", "retrieval", "teacher", "tiny", "--spec", "spec.yaml")
    assert (code, err) == (0, "")
    assert re.match(
        r"easy: mAP \d+.\d\d%, mP@1 [\d.]+%, mP@5 [\d.]+%, mP@10 [\d.]+%\nmedium: .*\nhard: mAP nan%", out
    )
    code, out, _ = leapcore_("run", "spec.yaml", "--set", "evaluate.retrieval=[tiny]")
    assert code == 0
    assert re.search(r"mAP on tiny +│ medium [\d.]+%, hard nan%", out)
    accuracy = json.loads(Path("runs/mine/summary.json").read_text())["accuracy"]
    assert 0 <= accuracy["easy_map/tiny"] <= 1
    assert "hard_map/tiny" not in accuracy, "nothing is hard there"
    code, _, err = leapcore_("run", "spec.yaml", "--overwrite", "--set", "evaluate.retrieval=[nowhere]")
    assert (code, "gnd_nowhere.pkl cannot be used as ground truth" in err) == (2, True)
    code, _, err = leapcore_("validate", "spec.yaml", "--set", "evaluate.retrieval=[nowhere]")
    assert (code, "gnd_nowhere.pkl cannot be used as ground truth" in err) == (2, True)
    code, _, err = leapcore_("eval", "retrieval", "teacher", "nowhere", "--spec", "spec.yaml")
    assert (code, "nowhere" in err, "Traceback" in err) == (2, True, False)


def test_validate_and_recipes_and_plugins(leapcore_):
    told = "results would go to runs/mine (models are checked by: leapcore plan spec.yaml)"
    assert leapcore_("validate", "spec.yaml")[:2] == (0, f"spec.yaml: ok, {told}\n")
    assert re.search(r"^quickstart +Distill", leapcore_("recipes")[1], re.MULTILINE)
    assert "quickstart  " in leapcore_("recipes")[1]
    assert leapcore_("recipes")[1] == leapcore_("recipes", "list")[1]
    assert "name: quickstart" in leapcore_("recipes", "show", "quickstart")[1]
    assert leapcore_("recipes", "copy", "quickstart", "own.yaml")[0] == 0
    assert "results would go to runs/own" in leapcore_("validate", "own.yaml")[1]
    for odd in ("12.yaml", "my own.yaml"):  # which no run can be called
        assert leapcore_("recipes", "copy", "quickstart", odd)[0] == 0
        assert "results would go to runs/quickstart" in leapcore_("validate", odd)[1]
    code, out, _ = leapcore_("plugins")
    assert code == 0
    assert "vit" in out
    assert "cka" in out


def test_the_baseline_is_one_override_away(leapcore_, caplog):
    code, _, err = leapcore_("validate", "quickstart", "--set", "curriculum.scheduler=fixed")
    assert code == 0
    assert "scheduler 'fixed' takes no threshold" in err or "takes no threshold" in caplog.text


def test_brackets_in_paths_are_no_markup(leapcore_):
    code, out, _ = leapcore_("run", "spec.yaml", "--output", "odd[/x]name")
    assert (code, "odd[/x]name" in out) == (0, True)


def test_a_teacher_with_nothing_to_teach_is_told_before_a_run(leapcore_):
    random = "teacher={backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, depth: 2}}"
    for command in ("validate", "run"):
        code, _, err = leapcore_(command, "spec.yaml", "--set", random)
        assert code == 0
        assert err.startswith("warning: the teacher has random weights (weights: none)")
    several = "{backbone: vit, model: vit_tiny_patch16_224}"
    options = [f"--set={one}" for one in ("teacher=null", f"teachers.a={several}", f"teachers.b={several}")]
    _, _, err = leapcore_("validate", "spec.yaml", *options)
    assert [line.split()[1] for line in err.splitlines()] == ["teachers.a", "teachers.b"]


def test_only_what_is_done_is_told(leapcore_, tmp_path):
    _images(tmp_path / "data")
    options = ["data.source=folder", "data.train=data/train", "data.val=data/val", "train.batch_size=2"]
    code, out, _ = leapcore_("run", "spec.yaml", *(f"--set={option}" for option in options))
    assert code == 0
    assert "opening the images in data/train and data/val" in out
    assert "evaluating" not in out, "every evaluation is never"


def test_validate_misses_no_missing_file(leapcore_):
    assert (
        "'gone.pth' do not exist"
        in leapcore_("validate", "spec.yaml", "--set", "teacher.weights=gone.pth")[2]
    )
    options = ["--set", "data.source=folder", "--set", "data.train=gone"]
    assert "folder 'gone' does not exist" in leapcore_("validate", "spec.yaml", *options)[2]


def test_an_occupied_output_folder(leapcore_):
    assert leapcore_("run", "spec.yaml")[0] == 0
    code, _, err = leapcore_("run", "spec.yaml")
    assert (code, "already holds a finished run" in err, "--overwrite" in err) == (2, True, True)
    assert leapcore_("run", "spec.yaml", "--overwrite")[0] == 0


@pytest.fixture
def broken_plugin(monkeypatch):
    points = [EntryPoint("broken", "no_such_module_anywhere", "leapcore")]
    found = leapcore.plugins.loader.entry_points(group="leapcore")
    monkeypatch.setattr(leapcore.plugins.loader, "entry_points", lambda group: [*found, *points])
    leapcore.plugins.loader.installed_plugins.cache_clear()
    yield
    leapcore.plugins.loader.installed_plugins.cache_clear()


@pytest.mark.usefixtures("broken_plugin")
def test_a_broken_plugin_is_fatal_only_to_specs_that_need_it(leapcore_):
    assert leapcore_("validate", "spec.yaml")[0] == 0
    assert "ModuleNotFoundError" in leapcore_("plugins")[1]
    code, _, err = leapcore_("validate", "spec.yaml", "--set", "student.backbone=theirs")
    assert code == 2
    assert "Plugin 'broken'" in err
    assert "No module named 'no_such_module_anywhere'" in err


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys, leapcore.cli; print({'torch', 'timm', 'deepspeed', 'pydantic'} & set(sys.modules))"
    started = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"
    assert time.perf_counter() - started < 2  # 0.1 s here; a busy machine needs room


@pytest.mark.parametrize("group", [[], ["eval"], ["recipes"], ["plugins"]])
def test_every_summary_fits_into_80_columns(leapcore_, monkeypatch, group):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = leapcore_(*group, "-h")
    assert (code, "..." in out.partition("Commands:")[2]) == (0, False)


def test_help_names_what_a_value_is_and_no_type(leapcore_):
    for path, command in _commands("leapcore", get_command(app)):
        for parameter in command.params:
            flag, value = getattr(parameter, "is_flag", False), parameter.metavar or ""
            assert flag or "|" in value or value == "FILE.html" or value.isupper(), (path, parameter.name)
            assert parameter.help, (path, parameter.name)
            assert parameter.secondary_opts in ([], ["--no-follow"]), (path, parameter.name)
    assert leapcore_("--version")[:2] == (0, f"leapcore {leapcore.__version__}\n")


def _commands(path, command):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(f"{path} {name}", inner)


QUICKLY_REFUSED = [
    ("run", "spec.yaml", "--output", "."),
    ("embed", "teacher", "photos", "-o", "f.txt"),
    ("embed", "teacher", "photos", "-o", "no/f.npz"),
]


def test_a_file_or_folder_that_cannot_be_written_is_refused_before_torch_is_imported(spec_file):
    code = f"""
import sys, leapcore.cli
for words in {QUICKLY_REFUSED}:
    sys.argv = ["leapcore", *words]
    try:
        leapcore.cli.main()
    except SystemExit as end:
        print(end.code, "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=spec_file.parent
    )
    assert [line for line in done.stdout.splitlines() if "leapcore" not in line] == ["2 False"] * 3
    assert done.stderr.count("Error: ") == 3


def test_validate_does_not_need_torch(leapcore_, tmp_path):
    code = "import sys; from leapcore import load_spec; load_spec('spec.yaml'); print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert out.stdout.strip() == "False"
