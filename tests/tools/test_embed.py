"""``leapcore embed``: features of folders and data sources, in every kind of file."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leapcore.evaluation.extract import Features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.tools import feature_file

NAMES = ["cats/1.png", "cats/2.jpg", "dogs/4.PNG", "dogs/small/3.webp", "top.png"]
LABELS = ["cats", "cats", "dogs", "dogs/small", ""]


@pytest.fixture
def embed(leapcore_, small_run):
    """Runs the command on the small run's student."""

    def command(*arguments, model=small_run):
        return leapcore_("embed", str(model), *arguments, "--set", "workers=0")

    return command


@pytest.fixture
def pictures(leapcore_):
    """Images at several depths, a hidden one, a link in a circle and a file that is no image."""
    for number, name in enumerate([*NAMES, ".hidden/x.png", "dogs/.x.png"]):
        Path("pictures", name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 50), 20 + 10 * number).convert("RGB").save(Path("pictures", name))
    Path("pictures/cats/broken.jpg").write_bytes(b"no image")
    Path("pictures/notes.txt").touch()
    os.symlink("..", "pictures/dogs/circle")
    return "pictures"


def test_a_folder_is_embedded_into_any_kind_of_file(embed, pictures):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for name in ("f.parquet", "f.npz", "f.npy"):
        code, out, err = embed(pictures, "-o", name, "--batch-size", "2")
        assert (code, out) == (0, f"{name}: 5 vectors of 24 numbers, 1 skipped\n")
        assert err.startswith("skipped cats/broken.jpg: UnidentifiedImageError: cannot identify")
    frame, arrays = pandas.read_parquet("f.parquet"), np.load("f.npz")
    vectors = np.load("f.npy")
    assert list(frame.columns) == ["path", "label", "vector"]
    assert (list(frame.path), list(frame.label)) == (NAMES, LABELS)
    assert (list(arrays["paths"]), list(arrays["labels"])) == (NAMES, LABELS)
    with open("f.csv", newline="") as file:
        assert list(csv.reader(file)) == [["path", "label"], *map(list, zip(NAMES, LABELS, strict=True))]
    assert (vectors.shape, vectors.dtype) == ((5, 24), np.float32)
    assert np.array_equal(vectors, arrays["vectors"])
    assert np.array_equal(vectors, np.stack(frame.vector))


def test_a_folder_without_sub_folders_has_no_labels_and_the_same_call_gives_the_same_file(embed, pictures):
    files = []
    for name in ("a.npz", "b.npz"):
        assert embed(f"{pictures}/cats", "-o", name)[0] == 0
        files.append(Path(name).read_bytes())
    assert set(np.load("a.npz")) == {"vectors", "paths"}
    assert files[0] == files[1]


def test_a_data_source_gives_the_features_that_a_run_is_evaluated_on(embed, small_run):
    found = {}
    for split in ("train", "val"):
        assert embed("digits", "-o", f"{split}.npz", "--split", split)[0] == 0
        arrays = np.load(f"{split}.npz")
        found[split] = Features(torch.from_numpy(arrays["vectors"]), torch.from_numpy(arrays["labels"]))
    accuracy = json.loads((small_run / "summary.json").read_text())["accuracy"]["knn"]
    assert knn_accuracy(found["train"], found["val"]) == pytest.approx(accuracy, abs=0.003)
    assert np.load("val.npz")["paths"][1] == "image 1"


def test_a_students_folder_is_viewed_as_in_its_run_and_a_layer_can_be_named(embed, small_run, pictures):
    shutil.copytree(small_run / "student", "moved")  # away from its run's spec
    assert embed(pictures, "-o", "run.npy")[0] == 0
    assert embed(pictures, "-o", "moved.npy", model="moved")[0] == 0
    assert embed(pictures, "-o", "last.npy", "--layer", "2")[0] == 0
    assert embed(pictures, "-o", "first.npy", "--layer", "1")[0] == 0
    run, moved, last, first = (np.load(f"{name}.npy") for name in ("run", "moved", "last", "first"))
    assert np.array_equal(run, moved)
    assert np.array_equal(run, last)
    assert not np.allclose(run, first)


def test_large_files_are_written_group_by_group(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(feature_file, "_ROWS_IN_GROUP", 4)
    with feature_file.open_feature_file(tmp_path / "f.parquet") as file:
        for start in range(0, 10, 2):
            vectors = np.full((2, 3), start, np.float32)
            file.write(feature_file.FeatureRows([f"{start}", f"{start + 1}"], [start, start], vectors))
    found = parquet.ParquetFile(tmp_path / "f.parquet")
    assert [found.metadata.row_group(group).num_rows for group in range(found.num_row_groups)] == [4, 4, 2]


MISTAKES = {
    "suffix": (["pictures", "-o", "f.csv"], "features cannot be written as '.csv'"),
    "exists": (["pictures", "-o", "here.npz"], "'here.npz' exists already"),
    "index exists": (["pictures", "-o", "index.npy"], "'index.csv' exists already"),
    "no folder": (["pictures", "-o", "no/f.npz"], "folder 'no' does not exist"),
    "no images": (["empty", "-o", "f.npz"], "folder 'empty' holds no images"),
    "none readable": (["broken", "-o", "f.npz"], "no image can be read; x.png: "),
    "no data": (["gone", "-o", "f.npz"], "'gone' is neither a folder nor a data source"),
    "no layer": (
        ["pictures", "-o", "f.npz", "--layer", "3", "--set", "data.workers=0"],
        "there is no layer 3: the model has 2",
    ),
    "no split": (["digits", "-o", "f.npz", "--split", "test"], "there is no split 'test'"),
    "unknown key": (["pictures", "-o", "f.npz", "--set", "wrkers=1"], "--set: wrkers: unknown key"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_leaves_nothing(embed, pictures, mistake):
    arguments, told = MISTAKES[mistake]
    for folder in ("empty", "broken"):
        Path(folder).mkdir()
    for name in ("broken/x.png", "here.npz", "index.csv"):
        Path(name).write_bytes(b"as it was")
    before = sorted(path for path in Path().iterdir())
    code, _, err = embed(*arguments)
    assert (code, told in err) == (2, True)
    assert len(err.splitlines()) == 2
    assert sorted(path for path in Path().iterdir()) == before
    assert Path("here.npz").read_bytes() == b"as it was"


def test_overwriting_replaces_and_parquet_names_its_package(embed, pictures, monkeypatch):
    Path("f.npz").write_bytes(b"old")
    assert embed(pictures, "-o", "f.npz", "--overwrite")[0] == 0
    assert len(np.load("f.npz")["vectors"]) == 5
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = embed(pictures, "-o", "f.parquet")
    assert (code, "pip install pyarrow; or write .npz" in err) == (2, True)


def test_a_run_without_a_student_says_how_to_get_one(embed, small_run, pictures):
    shutil.copytree(small_run, "run", ignore=shutil.ignore_patterns("student"))
    code, _, err = embed(pictures, "-o", "f.npz", model="run")
    assert (code, "has not written its student yet" in err, "leapcore export run" in err) == (2, True, True)
