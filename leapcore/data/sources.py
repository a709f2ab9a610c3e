"""Where images come from: factories ``(data, name, seed) -> ImageSplits``, named in ``data.source``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image
from torch.utils.data import Dataset

from leapcore.compat import import_timm
from leapcore.errors import DataError, PluginError, did_you_mean
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import DataSpec, Spec
from leapcore.spec.paths import class_folders, data_root, image_folder, without_images


class Images(Protocol):
    """A torch data set of (image of PIL or a file's bytes, label), with an index unless it is a stream."""

    def __len__(self) -> int:
        """How many images there are."""


# Of these sets, timm takes any split but the one for training as the test images, misspelt ones too.
_TWO_SPLITS = {
    f"torch/{name}" for name in ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "qmnist")
}


class ImageSplits(NamedTuple):
    """The images of a run.

    Attributes:
        train: What the student is distilled on, and the memory of kNN and linear probe.
        val: What accuracy is reported on.

    Example:
        >>> red = [(Image.new("RGB", (32, 32), (255, 0, 0)), 0)]  # images with their labels
        >>> splits = ImageSplits(train=red * 8, val=red)
        >>> len(splits.train), len(splits.val)
        (8, 1)
    """

    train: Images
    val: Images


def image_splits(spec: Spec) -> ImageSplits:
    """Open the images that a spec names.

    Example:
        >>> from leapcore import image_splits, load_spec
        >>> splits = image_splits(load_spec("quickstart"))
        >>> len(splits.train), len(splits.val)
        (1437, 360)
    """
    return open_images(spec.data, spec.train.seed)


def open_images(data: DataSpec, seed: int) -> ImageSplits:
    """Open the images that a spec's data section names, shuffled by a seed where they are a stream."""
    family, _, name = data.source.partition("/")
    plugins = installed_plugins()
    splits = plugins.get("datasets", family)(data, name, seed)
    if not isinstance(splits, ImageSplits):
        raise PluginError(
            f"the data source '{family}' of plugin {plugins.owner('datasets', family)} returns a "
            f"{type(splits).__name__}",
            "Return ImageSplits(train, val).",
        )
    return splits


class _InMemory(Dataset[Any]):
    """Images held as one array (n, H, W) of bytes."""

    def __init__(self, pixels: Any, labels: Any) -> None:
        self.pixels = pixels
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]).convert("RGB"), int(self.labels[index])


def digits(data: DataSpec, name: str, seed: int) -> ImageSplits:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: 1,437 to train, 360 to validate.

    The split is stratified by class and always the same.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = (bunch.images * (255 / 16)).astype("uint8")
    parts = train_test_split(pixels, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0)
    return ImageSplits(_InMemory(parts[0], parts[2]), _InMemory(parts[1], parts[3]))


def folder(data: DataSpec, name: str, seed: int) -> ImageSplits:
    """Two folders with one sub-folder of images per class, or with images alone, which have no labels.

    Raises:
        DataError: A folder is missing, holds no images, or one of its classes is empty or unknown.
    """
    train = _folder_dataset("data.train", data.train, class_map=None)
    classes = train.reader.class_to_idx
    val_classes = {path.name for path in class_folders(image_folder("data.val", data.val))}
    unknown = sorted(val_classes - set(classes))
    if unknown:
        raise DataError(
            f"data.val '{data.val}' has classes that data.train has not: {', '.join(unknown[:5])}",
            "Both folders need the same class folders, or the labels would not match.",
        )
    return ImageSplits(train, _folder_dataset("data.val", data.val, class_map=classes))


def _folder_dataset(key: str, path: str, class_map: dict[str, int] | None) -> Any:
    root = image_folder(key, path)
    try:
        dataset = import_timm().data.create_dataset(
            "", root=str(root), search_split=False, class_map=class_map
        )
        dataset.load_bytes = True  # timm would pass over some broken files and fail on others
    except RuntimeError as error:
        raise without_images(key, path) from error
    _check_layout(key, root, [Path(file).relative_to(root).parts for file, _ in dataset.reader.samples])
    return dataset


def _check_layout(key: str, root: Path, images: list[tuple[str, ...]]) -> None:
    """Refuse what timm would label by surprise: classes without images, and images deeper than a class."""
    deep = next((parts for parts in images if len(parts) > 2), None)
    if deep:
        raise DataError(
            f"{key}: image '{'/'.join(deep)}' lies deeper in '{root}' than one class folder",
            f"Arrange the images as {root}/CLASS/IMAGE.",
        )
    empty = {path.name for path in class_folders(root)} - {parts[0] for parts in images}
    if empty:
        raise DataError(
            f"{key}: no images in class folder {', '.join(map(repr, sorted(empty)[:5]))} of '{root}'",
            "Add images to it, or remove the folder if that class is not wanted.",
        )


def from_timm(data: DataSpec, name: str, seed: int) -> ImageSplits:
    """Anything else that timm reads: ``hfds/…``, ``hfids/…``, ``wds/…``, ``torch/…``.

    ``data.train`` and ``data.val`` are split names, ``data.root`` is where the files are.

    Raises:
        DataError: timm cannot open it; the message passes on why.
    """
    data_root(data.source, data.root)
    if name == "pandas":  # datasets below 5.2 unpickles the files of the current folder
        raise DataError(
            "data.source 'hfds/pandas' reads pickles, which can run code", "Save the images as Parquet files."
        )
    if data.root is not None:  # webdataset takes a path that does not begin with / for a URL or a command
        data = data.model_copy(update={"root": str(Path(data.root).absolute())})
    if data.source.lower() in _TWO_SPLITS:
        _check_split("data.train", data.train, ("train", "training"))
        _check_split("data.val", data.val, ("test", "val", "valid", "validation", "eval", "evaluation"))
    train = _timm_split(data, data.train, is_training=True, seed=seed, num_samples=data.train_images)
    val = _timm_split(data, data.val, is_training=False, seed=seed, num_samples=data.val_images)
    return ImageSplits(train, val)


def _check_split(key: str, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise DataError(f"{key}: '{split}' is none of this data set's splits", did_you_mean(split, known))


def _timm_split(data: DataSpec, split: str, **options: Any) -> Images:
    keys = {"input_key": data.image_key, "target_key": data.label_key}
    try:
        dataset: Images = import_timm().data.create_dataset(
            data.source, root=data.root, split=split, **keys, **options
        )
        if hasattr(dataset, "load_bytes"):
            dataset.load_bytes = True  # as in a folder
        _whole(dataset)
        _check_shards(data, dataset)
    except DataError:
        raise
    # Each reader fails in its own way: a missing package, a missing file, no network.
    except Exception as error:
        raise DataError(
            f"data.source '{data.source}' cannot be opened for split '{split}': "
            f"{type(error).__name__}: {error}",
            "Check source, root, split and keys; hfds, hfids and wds need: pip install 'leapcore[data]'.",
        ) from error
    return dataset


def _whole(dataset: Any) -> None:
    """timm's streams would deal their shards out to the processes of a run; ours share each batch instead."""
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(reader, "dist_num_replicas"):
        reader.dist_rank, reader.dist_num_replicas = 0, 1


def _check_shards(data: DataSpec, dataset: Any) -> None:
    """A split, and a data set's own list of shards, could name any file."""
    if not data.source.startswith("wds/"):
        return
    root = os.path.normpath(str(data.root))
    for name in dataset.reader.split_info.filenames:
        if not Path(os.path.normpath(os.path.join(root, name))).is_relative_to(root):
            raise DataError(
                f"shard '{name}' lies outside data.root '{data.root}'",
                "Set data.root to a folder that holds all shards.",
            )
