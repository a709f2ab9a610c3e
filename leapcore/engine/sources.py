"""Where images come from: factories ``(data, name) -> ImageSplits`` that a spec names in ``data.source``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset

from leapcore.compat import import_timm
from leapcore.errors import DataError
from leapcore.spec import DataSpec

Images = Dataset[Any]
"""Yields (RGB image of PIL, label); has a length, and an index unless it is a stream."""


class ImageSplits(NamedTuple):
    """The images of a run.

    Attributes:
        train: What the student is distilled on, and the memory of kNN and linear probe.
        val: What accuracy is reported on.
    """

    train: Images
    val: Images


class _InMemory(Dataset[Any]):
    """Images held as one array (n, H, W) of bytes."""

    def __init__(self, pixels: Any, labels: Any) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]).convert("RGB"), int(self.labels[index])


def digits(data: DataSpec, name: str) -> ImageSplits:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: 1,437 to train, 360 to validate.

    The split is stratified by class and always the same.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).astype("uint8")
    parts = train_test_split(pixels, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0)
    return ImageSplits(_InMemory(parts[0], parts[2]), _InMemory(parts[1], parts[3]))


def folder(data: DataSpec, name: str) -> ImageSplits:
    """Two folders with one sub-folder of images per class.

    Raises:
        DataError: A folder is missing, holds no images, or one of its classes is empty or unknown.
    """
    train = _folder_dataset("data.train", data.train, class_map=None)
    classes = train.reader.class_to_idx
    unknown = {path.name for path in Path(data.val).glob("*/")} - set(classes)
    if unknown:
        raise DataError(
            f"data.val '{data.val}' has classes that data.train has not: {', '.join(sorted(unknown)[:5])}",
            "Both folders need the same class folders, or the labels would not match.",
        )
    return ImageSplits(train, _folder_dataset("data.val", data.val, class_map=classes))


def _folder_dataset(key: str, path: str, class_map: dict[str, int] | None) -> Any:
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(
            f"{key}: folder '{path}' does not exist (looked for {root.absolute()})",
            f"Set {key} to a folder that holds one sub-folder of images per class.",
        )
    try:
        dataset = import_timm().data.create_dataset(
            "", root=str(root), search_split=False, class_map=class_map
        )
    except RuntimeError as error:
        raise DataError(
            f"{key}: folder '{path}' holds no images",
            f"Set {key} to a folder that holds one sub-folder of images per class (.jpg, .png, …).",
        ) from error
    _refuse_empty_classes(key, root, dataset)
    return dataset


def _refuse_empty_classes(key: str, root: Path, dataset: Any) -> None:
    filled = {Path(file).relative_to(root).parts[0] for file, _ in dataset.reader.samples}
    empty = sorted(child.name for child in root.iterdir() if child.is_dir() and child.name not in filled)
    if empty:
        raise DataError(
            f"{key}: no images in class folder {', '.join(repr(name) for name in empty[:5])} of '{root}'",
            "Add images to it, or remove the folder if that class is not wanted.",
        )


def from_timm(data: DataSpec, name: str) -> ImageSplits:
    """Anything else that timm reads: ``hfds/…``, ``hfids/…``, ``wds/…``, ``torch/…``.

    ``data.train`` and ``data.val`` are split names, ``data.root`` is where the files are.

    Raises:
        DataError: timm cannot open it; the message passes on why.
    """
    return ImageSplits(_timm_split(data, data.train, True), _timm_split(data, data.val, False))


def _timm_split(data: DataSpec, split: str, is_training: bool) -> Images:
    if data.root is not None and not Path(data.root).is_dir():
        raise DataError(f"data.root '{data.root}' does not exist", "Set it to the folder with the files.")
    try:
        dataset: Images = import_timm().data.create_dataset(
            data.source, root=data.root, split=split, is_training=is_training
        )
    # Each reader fails in its own way: a missing package, a missing file, no network.
    except Exception as error:
        raise DataError(
            f"data.source '{data.source}' cannot be opened for split '{split}': "
            f"{type(error).__name__}: {error}",
            "Check source, root and split; a reader may need its package (datasets, webdataset).",
        ) from error
    return dataset
