"""Batches of images: augmented for training, plain for evaluation.

An augmented view depends on seed, epoch and image alone, not on the number of workers nor on what else
draws random numbers. In a stream, which has no index, the worker and its count of images stand for it.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from leapcore.compat import torchvision_operators
from leapcore.errors import DataError
from leapcore.spec import AugmentSpec, DataSpec

# At import, since a worker that is spawned rather than forked meets torchvision in its images first.
torchvision_operators()


def training_view(size: int, augment: AugmentSpec) -> Any:
    """The random view of a training image (LEAP's augmentation): PIL image -> bytes (3, size, size)."""
    from torchvision import transforms as t

    crop = t.RandomResizedCrop(size, scale=augment.scale, interpolation=t.InterpolationMode.BICUBIC)
    steps: list[Any] = [_rgb, crop]
    if augment.flip:
        steps.append(t.RandomHorizontalFlip(augment.flip))
    if augment.color:
        steps.append(t.RandomApply([t.ColorJitter(0.4, 0.4, 0.2, 0.1)], augment.color))
    if augment.gray:
        steps.append(t.RandomGrayscale(augment.gray))
    if augment.blur:
        steps.append(t.GaussianBlur(2 * round(2 * augment.blur) + 3, (1e-3, augment.blur)))
    return t.Compose([*steps, t.PILToTensor()])


def evaluation_view(size: int, crop: float) -> Any:
    """The centre of an image whose shorter side was scaled to size / crop: PIL image -> bytes."""
    from torchvision import transforms as t

    resize = t.Resize(round(size / crop), t.InterpolationMode.BICUBIC)
    return t.Compose([_rgb, resize, t.CenterCrop(size), t.PILToTensor()])


def _rgb(image: Any) -> Any:
    return image.convert("RGB")


class _Views(Dataset[Any]):
    """Random views, each drawn from a seed that comes with the index."""

    def __init__(self, images: Any, view: Any) -> None:
        self.images = images
        self.view = view

    def __getitem__(self, index_and_seed: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = index_and_seed
        image, label = self.images[index]
        return _seeded_view(self.view, image, seed), label


class _Labelled(Dataset[Any]):
    """Plain views with their labels."""

    def __init__(self, images: Any, view: Any) -> None:
        self.images = images
        self.view = view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.view(image), label


class _EpochBatches:
    """Batches of (index, seed), shuffled anew in every epoch; the incomplete last one is left out."""

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [(index, _mixed(self.seed, self.epoch, index)) for index in batch]


class TrainingBatches:
    """Augmented batches, epoch by epoch.

    Args:
        images: A data set or a stream of (image, label).
        data: The spec's data section.
        batch_size: Images per batch.
        seed: The run's seed.

    Attributes:
        steps_per_epoch: Whole batches in an epoch; what is left over is dropped.

    Raises:
        DataError: There are fewer images than a batch takes.
    """

    def __init__(self, images: Any, data: DataSpec, batch_size: int, seed: int) -> None:
        if len(images) == 0:
            raise DataError("there are no training images", "Check data.source and data.train.")
        if len(images) < batch_size:
            raise DataError(
                f"train.batch_size is {batch_size}, but there are only {len(images)} training images: "
                "not one full batch, so nothing was run",
                f"Set train.batch_size to {len(images)} or less.",
            )
        self.steps_per_epoch = len(images) // batch_size
        view = training_view(data.image_size, data.augment)
        kind = _StreamEpochs if isinstance(images, IterableDataset) else _ShuffledEpochs
        self._epochs = kind(images, view, data.workers, batch_size, seed)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch: (bytes (B, 3, H, W), labels (B,)).

        Raises:
            DataError: A stream that should have images gave none.
        """
        return itertools.islice(self._epochs.batches(number), self.steps_per_epoch)


class _ShuffledEpochs:
    """Epochs of a data set with an index."""

    def __init__(self, images: Any, view: Any, workers: int, batch_size: int, seed: int) -> None:
        self._order = _EpochBatches(len(images), batch_size, seed)
        self._loader = _loader(_Views(images, view), workers, seed, batch_sampler=self._order)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._order.epoch = epoch
        return iter(self._loader)


class _StreamEpochs:
    """Epochs of a stream, which shuffles by itself.

    Each worker reads a part of it. Their remainders are put together, so that the number of batches
    does not depend on the number of workers; if the parts still fall short, the stream starts again.
    """

    def __init__(self, images: Any, view: Any, workers: int, batch_size: int, seed: int) -> None:
        self._images, self._view, self._workers = images, view, workers
        self._batch_size, self._seed = batch_size, seed

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        passes = (self._one_pass(epoch, again) for again in itertools.count())
        return _whole_batches(itertools.chain.from_iterable(passes), self._batch_size)

    def _one_pass(self, epoch: int, again: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches as the workers make them; new workers each time, since they hold the epoch's seed."""
        view = _StreamView(self._view, _mixed(self._seed, epoch, again))
        stream = _stream(self._images, view, self._workers)
        if hasattr(stream, "set_epoch"):
            stream.set_epoch(epoch)
        empty = True
        for batch in _loader(stream, self._workers, self._seed, batch_size=self._batch_size):
            empty = False
            yield batch
        if empty:
            raise DataError(
                "the stream of training images ended before its first image",
                "Use fewer data.workers (each needs a shard of its own), or check data.source.",
            )


def _whole_batches(parts: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of exactly this size from batches of at most this size."""
    pixels, labels = next(parts)
    while True:
        while len(labels) < size:
            more = next(parts)
            pixels, labels = torch.cat([pixels, more[0]]), torch.cat([labels, more[1]])
        yield pixels[:size], labels[:size]
        pixels, labels = pixels[size:], labels[size:]


class _StreamView:
    """Random views seeded by epoch, worker and how many came before."""

    def __init__(self, view: Any, seed: int) -> None:
        self._view, self._seed, self._count = view, seed, 0

    def __call__(self, image: Any) -> Tensor:
        worker = get_worker_info()
        self._count += 1
        return _seeded_view(self._view, image, _mixed(self._seed, worker.id if worker else 0, self._count))


def evaluation_batches(images: Any, data: DataSpec, batch_size: int) -> DataLoader[Any]:
    """Plain batches in order: (bytes (B, 3, H, W), labels (B,))."""
    view = evaluation_view(data.image_size, data.crop)
    streams = isinstance(images, IterableDataset)
    plain = _stream(images, view, data.workers) if streams else _Labelled(images, view)
    return _loader(plain, data.workers, 0, batch_size=batch_size)


def _stream(images: Any, view: Any, workers: int) -> Any:
    """A stream of timm's that applies the view; a copy, since training and evaluation share the images."""
    stream = copy.copy(images)
    stream.transform = view
    if hasattr(stream, "set_loader_cfg"):
        stream.set_loader_cfg(num_workers=workers)
    return stream


def _loader(dataset: Any, workers: int, seed: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0 and not isinstance(dataset, IterableDataset),
        generator=torch.Generator().manual_seed(seed),  # or it would draw from the run's own
        **options,
    )


def _seeded_view(view: Any, image: Any, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        drawn: Tensor = view(image)
    return drawn


def _mixed(*numbers: int) -> int:
    """32 well-mixed bits: torch's generator looks at no more, and neighbouring seeds must not be alike."""
    return zlib.crc32(repr(numbers).encode())
