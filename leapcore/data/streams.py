"""Epochs of streams: images without an index, which shuffle by themselves."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import get_worker_info

from leapcore.data.loading import Batch, loader
from leapcore.data.views import mixed, seeded_view
from leapcore.errors import DataError


class StreamEpochs:
    """Epochs of a stream, which shuffles by itself.

    Each worker reads a part of it. Their remainders are put together, so that the number of batches
    does not depend on the number of workers; if the parts still fall short, the stream starts again.

    Every process decodes the whole stream and augments its share, which loses and repeats no image.
    """

    def __init__(
        self, images: Any, view: Any, workers: int, batch_size: int, seed: int, share: slice, collate: Any
    ) -> None:
        self._images, self._workers, self._seed = images, useful_workers(images, workers), seed
        self._batch_size, self._share = batch_size, share
        self._views = _StreamViews(view, batch_size, share, collate)

    def batches(self, epoch: int, done: int) -> Iterator[Batch]:
        """This process's shares of an epoch's batches, without those that are done."""
        passes = (self._one_pass(epoch, again) for again in itertools.count())
        batches = self._completed(itertools.chain.from_iterable(passes))
        return itertools.islice(batches, done, None)  # a stream can only be gone through

    def _one_pass(self, epoch: int, again: int) -> Iterator[tuple[bool, Batch]]:
        """Batches as the workers make them, and whether each is a share.

        New workers each time, since they hold the epoch's seed.
        """
        seeds = _StreamSeeds(mixed(self._seed, epoch, again))
        stream = with_transform(self._images, seeds, self._workers)
        if hasattr(stream, "set_epoch"):
            stream.set_epoch(epoch)
        empty, options = True, {"batch_size": self._batch_size, "collate_fn": self._views}
        for batch in loader(stream, self._workers, self._seed, **options):
            empty = False
            yield batch
        if empty:
            raise DataError(
                "the stream of training images ended before its first image",
                "Use fewer data.workers (each needs a shard of its own), or check data.source.",
            )

    def _completed(self, parts: Iterator[tuple[bool, Batch]]) -> Iterator[Batch]:
        """Shares of whole batches; remainders, which come whole, wait until they make one."""
        size, rest = self._batch_size, list[Batch]()
        for is_share, part in parts:
            if is_share:
                yield part
                continue
            rest.append(part)
            while sum(len(batch.labels) for batch in rest) >= size:
                waiting = Batch.joined(rest)
                yield waiting.rows(slice(size)).rows(self._share)
                rest = [waiting.rows(slice(size, None))]


class _StreamSeeds:
    """Gives each image of a stream its seed: of epoch, worker and how many came before."""

    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, image: Any) -> tuple[Any, int]:
        worker = get_worker_info()
        self._count += 1
        return image, mixed(self._seed, worker.id if worker else 0, self._count)


class _StreamViews:
    """Draws the views of this process's share of a whole batch, or those of all images of a remainder."""

    def __init__(self, view: Any, batch_size: int, share: slice, collate: Any) -> None:
        self._view, self._batch_size, self._share, self._collate = view, batch_size, share, collate

    def __call__(self, samples: list[tuple[tuple[Any, int], int]]) -> tuple[bool, Batch]:
        whole = len(samples) == self._batch_size
        chosen = samples[self._share] if whole else samples
        views = [(seeded_view(self._view, image, seed), label, ()) for (image, seed), label in chosen]
        return whole, self._collate(views)


def with_transform(images: Any, transform: Any, workers: int) -> Any:
    """A stream of timm's with this transform; a copy, since training and evaluation share the images."""
    stream = copy.copy(images)
    stream.transform = transform
    stream.reader = copy.copy(stream.reader)
    stream.reader.ds = None  # where it was, with its generator: another epoch is another start
    if hasattr(stream, "set_loader_cfg"):
        stream.set_loader_cfg(num_workers=workers)
    return stream


def useful_workers(images: Any, workers: int) -> int:
    """As many as there are shards: others would have nothing to read, and the rest would read it twice."""
    split = getattr(getattr(images, "reader", None), "split_info", None)
    return workers if split is None else min(workers, len(split.filenames))
