"""Batches of images: augmented for training, plain for evaluation.

An augmented view depends on seed, epoch and image alone, not on the number of workers or processes nor on
what else draws random numbers. In a stream, which has no index, the worker and its count of images stand
for it. Every process works out the same batches and reads its own share of each.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from leapcore.engine.images import Fault, Skipped, read, read_or_next
from leapcore.engine.ranks import Ranks
from leapcore.engine.views import evaluation_view, mixed, seeded_view, training_view
from leapcore.errors import DataError
from leapcore.spec import DataSpec

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """A batch, or a process's share of it.

    Attributes:
        pixels: Bytes (B, 3, H, W).
        labels: (B,).
        faults: Images that could not be read on the way.
    """

    pixels: Tensor
    labels: Tensor
    faults: list[Fault]

    @classmethod
    def of(cls, samples: list[tuple[Tensor, int, tuple[Fault, ...]]]) -> Batch:
        """Put samples together."""
        pixels, labels, faults = zip(*samples, strict=True)
        images, classes = default_collate(list(zip(pixels, labels, strict=True)))
        return cls(images, classes, list(itertools.chain.from_iterable(faults)))


class TrainingBatches:
    """Augmented batches, epoch by epoch.

    Args:
        images: A data set or a stream of (image, label).
        data: The spec's data section.
        batch_size: Images per batch, over all processes.
        seed: The run's seed.
        ranks: The processes; this one is given its share of each batch.

    Attributes:
        steps_per_epoch: Whole batches in an epoch; what is left over is dropped.
        skipped: Images that could not be read.

    Raises:
        DataError: There are fewer images than a batch takes.
    """

    def __init__(
        self, images: Any, data: DataSpec, batch_size: int, seed: int, ranks: Ranks | None = None
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
        view = training_view(data.image_size, data.augment)
        kind = _StreamEpochs if isinstance(images, IterableDataset) else _ShuffledEpochs
        share = (ranks or Ranks()).share(batch_size)
        self._epochs = kind(images, view, data.workers, batch_size, seed, share)

    def after(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches that follow so many steps, without end: (bytes (B, 3, H, W), labels (B,)).

        Raises:
            DataError: Images cannot be read, or the processes that read them die.
        """
        epoch, done = divmod(steps, self.steps_per_epoch)
        yield from self.epoch(epoch, done)
        for later in itertools.count(epoch + 1):
            yield from self.epoch(later)

    def epoch(self, number: int, done: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, without those that are done."""
        batches = itertools.islice(self._epochs.batches(number, done), self.steps_per_epoch - done)
        for batch in _watched(batches):
            self.skipped.add(batch.faults)
            yield batch.pixels, batch.labels


class _EpochBatches:
    """One process's shares of batches of (index, seed), shuffled anew in every epoch.

    The incomplete last batch is left out.
    """

    def __init__(self, length: int, batch_size: int, seed: int, share: slice) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.epoch = 0
        self.done = 0

    def __len__(self) -> int:
        return self.length // self.batch_size - self.done

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for number in range(self.done, self.length // self.batch_size):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [(index, mixed(self.seed, self.epoch, index)) for index in batch[self.share]]


class _ShuffledEpochs:
    """Epochs of a data set with an index."""

    def __init__(
        self, images: Any, view: Any, workers: int, batch_size: int, seed: int, share: slice
    ) -> None:
        self._order = _EpochBatches(len(images), batch_size, seed, share)
        self._loader = _loader(
            _Views(images, view), workers, seed, batch_sampler=self._order, collate_fn=Batch.of
        )

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


class _StreamEpochs:
    """Epochs of a stream, which shuffles by itself.

    Each worker reads a part of it. Their remainders are put together, so that the number of batches
    does not depend on the number of workers; if the parts still fall short, the stream starts again.

    Every process decodes the whole stream and augments its share, which loses and repeats no image.
    """

    def __init__(
        self, images: Any, view: Any, workers: int, batch_size: int, seed: int, share: slice
    ) -> None:
        self._images, self._view, self._workers = images, view, _useful_workers(images, workers)
        self._batch_size, self._seed, self._share = batch_size, seed, share

    def batches(self, epoch: int, done: int) -> Iterator[Batch]:
        passes = (self._one_pass(epoch, again) for again in itertools.count())
        batches = self._completed(itertools.chain.from_iterable(passes))
        return itertools.islice(batches, done, None)  # a stream can only be gone through

    def _one_pass(self, epoch: int, again: int) -> Iterator[Batch]:
        """Batches as the workers make them; new workers each time, since they hold the epoch's seed."""
        seeds = _StreamSeeds(mixed(self._seed, epoch, again))
        stream = _stream(self._images, seeds, self._workers)
        if hasattr(stream, "set_epoch"):
            stream.set_epoch(epoch)
        views = _StreamViews(self._view, self._batch_size, self._share)
        empty = True
        for batch in _loader(
            stream, self._workers, self._seed, batch_size=self._batch_size, collate_fn=views
        ):
            empty = False
            yield batch
        if empty:
            raise DataError(
                "the stream of training images ended before its first image",
                "Use fewer data.workers (each needs a shard of its own), or check data.source.",
            )

    def _completed(self, parts: Iterator[Batch]) -> Iterator[Batch]:
        """Shares of whole batches; remainders, which come whole, wait until they make one."""
        mine, size = self._share.stop - self._share.start, self._batch_size
        rest: list[Batch] = []
        for part in parts:
            if len(part.labels) == mine:
                yield part
                continue
            rest.append(part)
            while sum(len(batch.labels) for batch in rest) >= size:
                pixels, labels = (torch.cat(tensors) for tensors in list(zip(*rest, strict=True))[:2])
                yield Batch(pixels[:size][self._share], labels[:size][self._share], [])
                rest = [Batch(pixels[size:], labels[size:], [])]


class _StreamSeeds:
    """Gives each image of a stream its seed: of epoch, worker and how many came before."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, image: Any) -> tuple[Any, int]:
        worker = get_worker_info()
        self._count += 1
        return image, mixed(self._seed, worker.id if worker else 0, self._count)


class _StreamViews:
    """Draws the views of this process's share of a whole batch, and those of all images of a remainder."""

    def __init__(self, view: Any, batch_size: int, share: slice) -> None:
        self._view, self._batch_size, self._share = view, batch_size, share

    def __call__(self, samples: list[tuple[tuple[Any, int], int]]) -> Batch:
        chosen = samples[self._share] if len(samples) == self._batch_size else samples
        return Batch.of(
            [(seeded_view(self._view, image, seed), label, ()) for (image, seed), label in chosen]
        )


def evaluation_batches(images: Any, data: DataSpec, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Plain batches in order, without images that cannot be read: (bytes (B, 3, H, W), labels (B,)).

    Raises:
        DataError: More images than ``data.skip_limit`` allows cannot be read.
    """
    view, skipped = evaluation_view(data.image_size, data.crop), Skipped(len(images), data.skip_limit)
    if isinstance(images, IterableDataset):
        workers = _useful_workers(images, data.workers)
        yield from _loader(_stream(images, view, workers), workers, 0, batch_size=batch_size)
        return
    plain, collate = _Plain(images, view), _PlainCollate(data.image_size)
    loader = _loader(plain, data.workers, 0, batch_size=batch_size, collate_fn=collate)
    for batch in _watched(iter(loader)):
        skipped.add(batch.faults)
        skipped.check()
        yield batch.pixels, batch.labels
    for name, reason in skipped.reasons.items():
        logger.warning("left out of the evaluation: %s: %s", name, reason)


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
    """Leaves out the images that could not be read."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, samples: list[Any]) -> Batch:
        found = [sample for sample in samples if sample[0] is not None]
        faults = [fault for sample in samples for fault in sample[2]]
        if not found:
            empty = torch.empty(0, 3, self._size, self._size, dtype=torch.uint8)
            return Batch(empty, torch.empty(0, dtype=torch.long), faults)
        return Batch.of(found)._replace(faults=faults)


def _stream(images: Any, transform: Any, workers: int) -> Any:
    """A stream of timm's with this transform; a copy, since training and evaluation share the images."""
    stream = copy.copy(images)
    stream.transform = transform
    if hasattr(stream, "set_loader_cfg"):
        stream.set_loader_cfg(num_workers=workers)
    return stream


def _useful_workers(images: Any, workers: int) -> int:
    """As many as there are shards: others would have nothing to read, and the rest would read it twice."""
    split = getattr(getattr(images, "reader", None), "split_info", None)
    return workers if split is None else min(workers, len(split.filenames))


def _loader(dataset: Any, workers: int, seed: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0 and not isinstance(dataset, IterableDataset),
        generator=torch.Generator().manual_seed(seed),  # or it would draw from the run's own
        **options,
    )


def _watched(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, with an error that one can act on where a worker dies."""
    try:
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a process that loads images died: {str(error).splitlines()[0]}",
            "The machine may be short of memory, or of shared memory (df /dev/shm): use fewer data.workers.",
        ) from error
