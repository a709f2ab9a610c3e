"""The features that a model gives of many images, written to a file as they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap
from torch import Tensor
from torch.utils.data import IterableDataset

from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import evaluation_batches, plain_batches
from leapcore.data.image_files import ImageFiles
from leapcore.data.images import Fault, image_name
from leapcore.data.sources import open_images
from leapcore.distributed.cores import cores_each
from leapcore.distributed.ranks import join
from leapcore.errors import DataError, OutputError, SpecError, UnknownNameError
from leapcore.evaluation.feature_files import Rows, check_feature_file, open_feature_file
from leapcore.evaluation.features import evaluating, pooled_features
from leapcore.models.build import backbone_of
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import DataSpec
from leapcore.spec.text import SpecText, override, spec_error
from leapcore.tools.models import FoundModel, found_model


class Embedded(NamedTuple):
    """What was written.

    Attributes:
        images: How many rows.
        width: Of a vector.
        skipped: Why images were left out, by their names.
    """

    images: int
    width: int
    skipped: dict[str, str]


class _Read(NamedTuple):
    """A batch: bytes (B, 3, H, W), labels (B,), names; what could not be read, and how many were tried."""

    pixels: Tensor
    labels: Tensor
    names: list[str]
    faults: Sequence[Fault]
    tried: int


def embed(
    model: str,
    data: str,
    output: Path,
    *,
    family: str | None = None,
    settings: Sequence[str] = (),
    split: str = "val",
    layer: int | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Embedded:
    """Write a model's pooled features of images: the class token's, else the mean token's, in float32.

    Rows have the order of the images; the same call writes the same file.

    Args:
        model: As :func:`leapcore.tools.models.found_model` takes it.
        data: A folder, whose images are found at any depth, or a data source as a spec's ``data.source``.
        output: ``.parquet``, ``.npz`` or ``.npy``; it appears when it is whole.
        family: The model's backbone family; found from its name if None.
        settings: ``key=value`` of a spec's data section. Image size and crop are the model's own otherwise.
        split: ``train`` or ``val`` of a data source.
        layer: Which layer's features, counted from 1; the last one's if None. Deeper ones are not computed.
        batch_size: Images per batch.
        overwrite: Replace an earlier file.
        progress: Called with the images that are done and their number.

    Raises:
        OutputError: The file cannot be written.
        DataError: There are no images, or none of them can be read.
        SpecError: A setting or the layer is wrong.
    """
    check_feature_file(output, overwrite=overwrite)
    found = found_model(model, family)
    wanted = _data(data, found, settings)
    images = _images(data, wanted, split)
    provider = backbone_of(found.backbone, wanted.image_size).to(join().device)
    index, seen = _layer_index(provider, layer), _Seen(len(images), progress)
    try:
        with open_feature_file(output) as file, evaluating(provider):
            for batch in seen.noting(_told_of(data, _batches(images, wanted, batch_size))):
                file.write(_rows(provider, batch, index, images))
            seen.require_some()
    except OSError as error:
        raise OutputError(f"'{output}' cannot be written: {error}", "Name another file with -o.") from error
    return Embedded(seen.images, provider.layers[index].channels, seen.skipped)


class _Seen:
    """What became of the images.

    Args:
        total: How many there are.
        progress: Told of those that are done.
    """

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._total, self._done, self._progress = total, 0, progress
        self.images, self.skipped = 0, dict[str, str]()

    def noting(self, batches: Iterable[_Read]) -> Iterator[_Read]:
        """The batches that hold images."""
        for batch in batches:
            self.skipped |= {fault.name: fault.reason for fault in batch.faults}
            if batch.names:
                yield batch
            self.images += len(batch.names)
            self._done += batch.tried
            self._progress(self._done, self._total)

    def require_some(self) -> None:
        """Raise a DataError if no image could be read."""
        if self.images == 0:
            name, reason = next(iter(self.skipped.items()), ("the data source", "it has no images"))
            raise DataError(f"no image can be read; {name}: {reason}", "Name a folder or source with images.")


def _data(source: str, found: FoundModel, settings: Sequence[str]) -> DataSpec:
    """A spec's data section; of a folder only the keys count that say how its images are viewed."""
    own = {
        "source": "folder" if Path(source).is_dir() else source,
        "image_size": found.image_size,
        "crop": found.crop,
        "workers": min(4, cores_each()),
    }
    text = SpecText("data", CommentedMap(own), set())
    for setting in settings:
        override(text, setting.removeprefix("data."))
    try:
        return DataSpec.model_validate(text.keys)
    except ValidationError as error:
        raise spec_error(text, DataSpec, (), error) from error


def _images(source: str, data: DataSpec, split: str) -> Any:
    if Path(source).is_dir():
        return ImageFiles(Path(source))
    try:
        installed_plugins().require("datasets", data.source.partition("/")[0])
    except UnknownNameError as error:
        raise DataError(f"'{source}' is neither a folder nor a data source", error.remedy) from error
    splits = open_images(data, seed=0)
    return splits.train if split == "train" else splits.val


def _layer_index(provider: LayerFeatureProvider, layer: int | None) -> int:
    count = len(provider.layers)
    if layer is not None and not 1 <= layer <= count:
        raise SpecError(
            f"there is no layer {layer}: the model has {count}",
            f"Name {'1' if count == 1 else f'1 to {count}'}.",
        )
    return count - 1 if layer is None else layer - 1


def _told_of(source: str, batches: Iterator[_Read]) -> Iterator[_Read]:
    """The same batches; an error in reading them is not one in writing."""
    try:
        yield from batches
    except OSError as error:
        raise DataError(f"'{source}' cannot be read: {error}", "Check its files and the disk.") from error


def _batches(images: Any, data: DataSpec, batch_size: int) -> Iterator[_Read]:
    begin = 0
    if isinstance(images, IterableDataset):
        for pixels, labels in evaluation_batches(images, data, batch_size):
            names = [f"image {begin + place}" for place in range(len(labels))]
            begin += len(labels)
            yield _Read(pixels, labels, names, (), len(labels))
        return
    for kept, batch in plain_batches(images, data, batch_size):
        names = [image_name(images, begin + place) for place in kept]
        tried = min(batch_size, len(images) - begin)
        begin += tried
        yield _Read(batch.pixels, batch.labels, names, batch.faults, tried)


def _rows(provider: LayerFeatureProvider, batch: _Read, layer: int, images: Any) -> Rows:
    vectors = pooled_features(provider, batch.pixels, join().device, layer).cpu().numpy()
    return Rows(batch.names, _labels(batch.labels.tolist(), images), vectors)


def _labels(labels: list[int], images: Any) -> Sequence[str] | Sequence[int] | None:
    """The folder that each lies in, empty for those in none; a source's own numbers, -1 for none."""
    if not isinstance(images, ImageFiles):
        return labels
    return [images.classes[label] if label >= 0 else "" for label in labels] if images.classes else None
