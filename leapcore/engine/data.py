"""Batches of images: augmented for training, plain for evaluation.

An augmented view depends on seed, epoch and image alone, not on the number of workers nor on what else
draws random numbers.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leapcore.compat import torchvision_operators
from leapcore.errors import DataError
from leapcore.spec import AugmentSpec, DataSpec


def training_view(size: int, augment: AugmentSpec) -> Any:
    """The random view of a training image (LEAP's augmentation): PIL image -> bytes (3, size, size)."""
    torchvision_operators()
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
    torchvision_operators()
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
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.view(image), label


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

    Raises:
        DataError: There are fewer images than a batch takes.
    """

    def __init__(self, images: Any, data: DataSpec, batch_size: int, seed: int) -> None:
        if len(images) < batch_size:
            raise DataError(
                f"train.batch_size is {batch_size}, but there are only {len(images)} training images: "
                "not one full batch, so nothing was run",
                f"Set train.batch_size to {len(images)} or less.",
            )
        view = training_view(data.image_size, data.augment)
        self.steps_per_epoch = len(images) // batch_size
        self._order: Any = images if isinstance(images, IterableDataset) else None
        if self._order is None:
            self._order = _EpochBatches(len(images), batch_size, seed)
            self._loader = _loader(_Views(images, view), data.workers, seed, batch_sampler=self._order)
        else:
            stream = _stream(images, view)
            self._loader = _loader(stream, data.workers, seed, batch_size=batch_size, drop_last=True)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch: (bytes (B, 3, H, W), labels (B,))."""
        if isinstance(self._order, _EpochBatches):
            self._order.epoch = number
        elif hasattr(self._order, "set_epoch"):
            self._order.set_epoch(number)
        yield from self._loader


def evaluation_batches(images: Any, data: DataSpec, batch_size: int) -> DataLoader[Any]:
    """Plain batches in order: (bytes (B, 3, H, W), labels (B,))."""
    view = evaluation_view(data.image_size, data.crop)
    if isinstance(images, IterableDataset):
        return _loader(_stream(images, view), data.workers, 0, batch_size=batch_size)
    return _loader(_Labelled(images, view), data.workers, 0, batch_size=batch_size)


def _stream(images: Any, view: Any) -> Any:
    """A stream of timm's that applies the view; a copy, since training and evaluation share the images."""
    stream = copy.copy(images)
    stream.transform = view
    return stream


def _loader(dataset: Any, workers: int, seed: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),  # or it would draw from the run's own
        **options,
    )


def _mixed(*numbers: int) -> int:
    """32 well-mixed bits: torch's generator looks at no more, and neighbouring seeds must not be alike."""
    return zlib.crc32(repr(numbers).encode())
