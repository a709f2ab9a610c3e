"""Files that a spec names: checked before anything heavy is imported."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from leapcore.errors import DataError, WeightsError, did_you_mean

ASSET = "asset:"
WITHOUT_FILE = ("none", "pretrained")


def weights_path(weights: str) -> Path | None:
    """Where a spec's ``weights`` are: a file or folder; None for random or downloaded ones.

    Raises:
        WeightsError: They do not exist.
    """
    if weights in WITHOUT_FILE:
        return None
    if weights.startswith(ASSET):
        return _asset(weights.removeprefix(ASSET))
    path = Path(weights).expanduser()
    if not path.exists():
        raise WeightsError(
            f"weights '{weights}' do not exist",
            "Give a file, a folder with config.json and model.safetensors, 'pretrained' or 'none'.",
        )
    return path


def image_folder(key: str, path: str) -> Path:
    """The folder that a key of the spec names.

    Raises:
        DataError: It does not exist, it or a class folder cannot be read, or there is no file in it.
    """
    folder, remedy = Path(path).expanduser(), f"{_remedy(key)}."
    if folder.is_file():
        raise DataError(f"{key}: '{path}' is a file, not a folder", remedy)
    if not folder.is_dir():
        raise DataError(f"{key}: folder '{path}' does not exist (looked for {folder.absolute()})", remedy)
    try:
        for inner in (folder, *class_folders(folder)):
            os.scandir(inner).close()
    except OSError as error:
        raise DataError(
            f"{key}: folder '{error.filename}' cannot be read: {error.strerror}", "Mend its permissions."
        ) from error
    if not any(names for *_, names in os.walk(folder, followlinks=True)):
        raise without_images(key, path)
    return folder


def without_images(key: str, path: str) -> DataError:
    """The error of a folder that a key of the spec names and that holds no images."""
    return DataError(f"{key}: folder '{path}' holds no images", f"{_remedy(key)} (.jpg, .png, …).")


def _remedy(key: str) -> str:
    return f"Set {key} to a folder that holds images, or one sub-folder of them per class"


def data_root(source: str, root: str | None) -> None:
    """Make sure that a data source's root is there, where it is named or needed.

    Raises:
        DataError: It is missing.
    """
    if root is not None and not Path(root).is_dir():
        raise DataError(f"data.root '{root}' does not exist", "Set it to the folder with the files.")
    if root is None and source.startswith(("wds/", "torch/")):
        raise DataError(f"data.root is missing: '{source}' reads files", "Set it to their folder.")


def ground_truth_path(folder: Path) -> Path:
    """The ground truth in a folder in the layout of revisited Oxford and Paris, ``gnd_<folder's name>.pkl``.

    Raises:
        DataError: There is none.
    """
    candidates = list(folder.glob("gnd_*.pkl"))
    path = candidates[0] if len(candidates) == 1 else folder / f"gnd_{folder.resolve().name}.pkl"
    if not path.is_file():
        raise DataError(
            f"{path} cannot be used as ground truth: No such file",
            "Fetch it from where the data set is published.",
        )
    return path


def class_folders(root: Path) -> list[Path]:
    """The sub-folders of a folder of images, hidden ones left out."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _asset(name: str) -> Path:
    assets = Path(str(files("leapcore.models"))) / "assets"
    known = [path.name for path in class_folders(assets)]
    if name not in known:
        raise WeightsError(f"leapcore ships no weights named '{name}'", did_you_mean(name, known))
    return assets / name
