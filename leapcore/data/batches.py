"""Batches of images: augmented for training, plain for evaluation.

An augmented view depends on seed, epoch and image alone, not on the number of workers or processes nor on
what else draws random numbers; where views come again (``data.augment.views``), their number stands for the
epoch. In a stream, which has no index, the worker and its count of images stand for the image. Every process
determines the same batches and reads its own share of each.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from leapcore.data.images import Fault, Skipped, read, read_or_next
from leapcore.data.loading import Batch, loader, watched
from leapcore.data.streams import StreamEpochs, useful_workers, with_transform
from leapcore.data.views import evaluation_view, mixed, seeded_view, training_view
from leapcore.distributed.ranks import Ranks
from leapcore.errors import DataError, SpecError
from leapcore.spec import DataSpec

logger = logging.getLogger(__name__)


class TrainingBatches:
    """Augmented batches, epoch by epoch.

    Args:
        images: A data set or a stream of (image, label).
        data: The spec's data section.
        batch_size: Images per batch, over all processes.
        seed: The run's seed.
        ranks: The processes; this one gets its share of each batch.
        digests: Whether batches hold a digest of each view's bytes.

    Attributes:
        steps_per_epoch: Whole batches in an epoch; what is left over is dropped.
        skipped: Images that could not be read.

    Raises:
        DataError: There are fewer images than a batch takes.
        SpecError: The views of a stream are to come again.
    """

    def __init__(
        self,
        images: Any,
        data: DataSpec,
        batch_size: int,
        seed: int,
        ranks: Ranks | None = None,
        *,
        digests: bool = False,
    ) -> None:
        if len(images) == 0:
            raise DataError("there are no training images", "Check data.source and data.train.")
        if len(images) < batch_size:
            raise DataError(
                f"train.batch_size is {batch_size}, but there are only {len(images)} training images: "
                "not one full batch, so nothing was run",
                f"Set train.batch_size to {len(images)} or less.",
            )
        self.steps_per_epoch = len(images) // batch_size
        self.skipped = Skipped(len(images), data.skip_limit)
        self._workers = data.workers
        view = training_view(data.image_size, data.augment)
        share, collate = (ranks or Ranks()).share(batch_size), Batch.with_digests if digests else Batch.of
        if isinstance(images, IterableDataset):
            _refuse_views(data)
            self._epochs: Any = StreamEpochs(images, view, data.workers, batch_size, seed, share, collate)
        else:
            order = _EpochBatches(len(images), batch_size, seed, share, data.augment.views)
            self._epochs = _ShuffledEpochs(images, view, data.workers, seed, order, collate)

    def after(self, steps: int) -> Iterator[Batch]:
        """The batches that follow so many steps, without end.

        Raises:
            DataError: Images cannot be read, or the processes that read them die.
        """
        epoch, done = divmod(steps, self.steps_per_epoch)
        yield from self.epoch(epoch, done)
        for later in itertools.count(epoch + 1):
            yield from self.epoch(later)

    def epoch(self, number: int, done: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, without those that are done."""
        batches = itertools.islice(self._epochs.batches(number, done), self.steps_per_epoch - done)
        for batch in watched(batches, self._workers):
            self.skipped.add(batch.faults)
            yield batch


def _refuse_views(data: DataSpec) -> None:
    if data.augment.views is not None:
        raise SpecError(
            f"data.augment.views: the images of the stream '{data.source}' have no index to draw a view by",
            "Leave it out, or take a source with an index, such as a folder.",
        )


class _EpochBatches:
    """One process's shares of batches of (index, seed), shuffled anew in every epoch.

    The incomplete last batch is left out.

    Args:
        length: How many images there are.
        batch_size: Images per batch, over all processes.
        seed: The run's.
        share: This process's part of each batch.
        views: After how many epochs the seeds of an image start again; None for never.
    """

    def __init__(self, length: int, batch_size: int, seed: int, share: slice, views: int | None) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.views = views
        self.epoch = 0
        self.done = 0

    def __len__(self) -> int:
        return self.length // self.batch_size - self.done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        view = self.epoch if self.views is None else self.epoch % self.views
        for number in range(self.done, self.length // self.batch_size):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [(index, mixed(self.seed, view, index)) for index in batch[self.share]]


class _ShuffledEpochs:
    """Epochs of a data set with an index."""

    def __init__(
        self, images: Any, view: Any, workers: int, seed: int, order: _EpochBatches, collate: Any
    ) -> None:
        self._order = order
        self._loader = loader(_Views(images, view), workers, seed, batch_sampler=order, collate_fn=collate)

    def batches(self, epoch: int, done: int) -> Iterator[Batch]:
        self._order.epoch, self._order.done = epoch, done
        return iter(self._loader)


class _Views(Dataset[Any]):
    """Random views, each drawn from a seed that comes with the index."""

    def __init__(self, images: Any, view: Any) -> None:
        self.images = images
        self.view = view

    def __getitem__(self, index_and_seed: tuple[int, int]) -> tuple[Tensor, int, tuple[Fault, ...]]:
        index, seed = index_and_seed
        sample = read_or_next(self.images, index)
        return seeded_view(self.view, sample.image, seed), sample.label, sample.faults


def evaluation_batches(
    images: Any, data: DataSpec, batch_size: int, places: Sequence[int] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Plain batches in order, without images that cannot be read: (bytes (B, 3, H, W), labels (B,)).

    Args:
        images: A data set or a stream of (image, label).
        data: The spec's data section.
        batch_size: Images per batch.
        places: Which images of a data set; all of them if None, and of a stream in any case.

    Raises:
        DataError: More images than ``data.skip_limit`` allows cannot be read.

    Example:
        >>> from PIL import Image
        >>> images = [(Image.new("RGB", (40, 30)), label) for label in range(5)]  # or image_splits(spec).val
        >>> data = DataSpec(source="digits", image_size=32, workers=0)
        >>> [(pixels.shape, labels.tolist()) for pixels, labels in evaluation_batches(images, data, 4)]
        [(torch.Size([4, 3, 32, 32]), [0, 1, 2, 3]), (torch.Size([1, 3, 32, 32]), [4])]
    """
    if isinstance(images, IterableDataset):
        view, workers = evaluation_view(data.image_size, data.crop), useful_workers(images, data.workers)
        stream = with_transform(images, view, workers)
        yield from watched(iter(loader(stream, workers, 0, batch_size=batch_size)), workers)
        return
    skipped = Skipped(len(images), data.skip_limit)
    for _, batch in plain_batches(images, data, batch_size, places):
        skipped.add(batch.faults)
        skipped.check()
        if len(batch.labels):
            yield batch.pixels, batch.labels
    for name, reason in skipped.reasons.items():
        logger.warning("left out of the evaluation: %s: %s", name, reason)


def plain_batches(
    images: Any, data: DataSpec, batch_size: int, places: Sequence[int] | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """Plain batches of a data set in order, however many images cannot be read.

    Each comes with the places that its images had among the ``batch_size`` that were tried; its faults name
    those that are missing.
    """
    plain: Dataset[Any] = _Plain(images, evaluation_view(data.image_size, data.crop))
    if places is not None:
        plain = Subset(plain, places)
    collate = _PlainCollate(data.image_size)
    batches = loader(plain, data.workers, 0, batch_size=batch_size, collate_fn=collate)
    return watched(iter(batches), data.workers)


def evaluation_sample(images: Any, data: DataSpec, size: int) -> Tensor:
    """Plain views of the first images; of evenly spaced ones, if the first are all of one class.

    Args:
        images: A data set or a stream of (image, label).
        data: The spec's data section.
        size: How many images; fewer where there are fewer, or some cannot be read.

    Returns:
        Bytes (n, 3, H, W), the same in every call.

    A stream is read up to the last image that is taken.
    """
    pixels, labels = _taken(images, data, range(min(size, len(images))))
    if len(labels.unique()) < 2 and len(images) > size:
        pixels, _ = _taken(images, data, [number * len(images) // size for number in range(size)])
    return pixels


def _taken(images: Any, data: DataSpec, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The images at these places, in rising order, and their labels."""
    batches: Iterable[Any] = evaluation_batches(images, data, 32, places)
    if isinstance(images, IterableDataset):
        batches = _picked(batches, places)
    empty = (
        torch.empty(0, 3, data.image_size, data.image_size, dtype=torch.uint8),
        torch.empty(0, dtype=torch.long),
    )
    pixels, labels = zip(empty, *batches, strict=True)
    return torch.cat(pixels), torch.cat(labels)


def _picked(
    batches: Iterable[tuple[Tensor, Tensor]], places: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of a stream's batches the images at these places."""
    begin = 0
    for pixels, labels in batches:
        here = [place - begin for place in places if begin <= place < begin + len(labels)]
        yield pixels[here], labels[here]
        begin += len(labels)
        if begin > max(places, default=-1):
            return


class _Plain(Dataset[Any]):
    """Plain views with their labels; no view of an image that cannot be read."""

    def __init__(self, images: Any, view: Any) -> None:
        self.images = images
        self.view = view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor | None, int, tuple[Fault, ...]]:
        sample = read(self.images, index)
        view = None if sample.image is None else self.view(sample.image)
        return view, sample.label, sample.faults


class _PlainCollate:
    """Leaves out the images that could not be read: (places of the others, their batch)."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, samples: list[Any]) -> tuple[list[int], Batch]:
        kept = [place for place, (view, _, _) in enumerate(samples) if view is not None]
        faults = [fault for _, _, of_sample in samples for fault in of_sample]
        if not kept:
            empty = torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)
            return kept, Batch(empty, torch.empty(0, dtype=torch.long), faults, empty)
        return kept, Batch.of([samples[place] for place in kept])._replace(faults=faults)
