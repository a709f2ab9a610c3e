"""A model's features of many images, written to a file as they are computed."""

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
from leapcore.evaluation.extract import evaluating, pooled_features
from leapcore.models.build import backbone_of
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import DataSpec
from leapcore.spec.text import SpecText, override, spec_error
from leapcore.tools.feature_file import FeatureRows, check_feature_file, open_feature_file
from leapcore.tools.resolve import ResolvedModel, resolve_model


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


class _Batch(NamedTuple):
    """Images that were read together.

    Attributes:
        pixels: Bytes (B, 3, H, W).
        labels: (B,).
        names: Of the B images.
        faults: Images that cannot be read.
        tried: How many images that makes, B and the unreadable ones.
    """

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
        model: As :func:`leapcore.tools.resolve.resolve_model` takes it.
        data: A folder, whose images are found at any depth, or a data source as a spec's ``data.source``.
        output: ``.parquet``, ``.npz`` or ``.npy``; it appears when it is whole.
        family: The model's backbone family; if None, the one that lists the model.
        settings: ``key=value`` of a spec's data section. Image size and crop are the model's own otherwise.
        split: ``train`` or ``val``, of a data source.
        layer: Which layer's features, counted from 1; the last one's if None. Deeper ones are not computed.
        batch_size: Images per batch.
        overwrite: Replace an earlier file.
        progress: Called with the number of images that are done, and of all images.

    Raises:
        OutputError: The file cannot be written.
        DataError: There are no images, or none of them can be read.
        SpecError: A setting, the split or the layer is wrong.
    """
    check_feature_file(output, overwrite=overwrite)
    if split not in ("train", "val"):
        raise SpecError(f"there is no split '{split}'", "Choose train or val.")
    resolved = resolve_model(model, family)
    view = _data_spec(data, resolved, settings)
    images = _images(data, view, split)
    provider = backbone_of(resolved.backbone, view.image_size).to(join().device)
    index, tally = _layer_index(provider, layer), _Tally(len(images), progress)
    try:
        with open_feature_file(output) as file, evaluating(provider):
            for batch in tally.counting(_reading_from(data, _batches(images, view, batch_size))):
                file.write(_rows(provider, batch, index, images))
            tally.require_some()
    except OSError as error:
        raise OutputError(f"'{output}' cannot be written: {error}", "Name another file with -o.") from error
    return Embedded(tally.images, provider.layers[index].channels, tally.skipped)


class _Tally:
    """How many images were read, and why the others were skipped.

    Args:
        total: How many there are.
        progress: Called after each batch with the number that is done, and the total.
    """

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._total, self._done, self._progress = total, 0, progress
        self.images, self.skipped = 0, dict[str, str]()

    def counting(self, batches: Iterable[_Batch]) -> Iterator[_Batch]:
        """Count a batch's images once they are used; batches without images are left out."""
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


def _data_spec(source: str, model: ResolvedModel, settings: Sequence[str]) -> DataSpec:
    """A spec's data section; for a folder only the keys matter that say how its images are viewed."""
    own = {
        "source": "folder" if Path(source).is_dir() else source,
        "image_size": model.image_size,
        "crop": model.crop,
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


def _reading_from(source: str, batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches; an error in reading them names their source, not the output."""
    try:
        yield from batches
    except OSError as error:
        raise DataError(f"'{source}' cannot be read: {error}", "Check its files and the disk.") from error


def _batches(images: Any, data: DataSpec, batch_size: int) -> Iterator[_Batch]:
    start = 0
    if isinstance(images, IterableDataset):
        for pixels, labels in evaluation_batches(images, data, batch_size):
            names = [f"image {start + offset}" for offset in range(len(labels))]
            start += len(labels)
            yield _Batch(pixels, labels, names, (), len(labels))
        return
    for readable, batch in plain_batches(images, data, batch_size):
        names = [image_name(images, start + offset) for offset in readable]
        tried = min(batch_size, len(images) - start)
        start += tried
        yield _Batch(batch.pixels, batch.labels, names, batch.faults, tried)


def _rows(provider: LayerFeatureProvider, batch: _Batch, layer: int, images: Any) -> FeatureRows:
    vectors = pooled_features(provider, batch.pixels, join().device, layer).cpu().numpy()
    return FeatureRows(batch.names, _labels(batch.labels.tolist(), images), vectors)


def _labels(labels: list[int], images: Any) -> Sequence[str] | Sequence[int] | None:
    """For a folder each image's sub-folder, empty at the top; else the source's numbers, -1 for none."""
    if not isinstance(images, ImageFiles):
        return labels
    return [images.classes[label] if label >= 0 else "" for label in labels] if images.classes else None
