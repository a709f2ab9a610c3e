"""What becomes of an image before a network sees it: augmented for training, plain for evaluation."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from leapcore.compat import torchvision_operators
from leapcore.spec import AugmentSpec

# At import, since a worker that is spawned rather than forked meets torchvision in its images first.
torchvision_operators()


def training_view(size: int, augment: AugmentSpec) -> Any:
    """The random view of a training image (LEAP's augmentation): PIL image -> bytes (3, size, size)."""
    from torchvision import transforms as t

    crop = t.RandomResizedCrop(size, scale=augment.scale, interpolation=t.InterpolationMode.BICUBIC)
    steps: list[Any] = [rgb, crop]
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
    return t.Compose([rgb, resize, t.CenterCrop(size), t.PILToTensor()])


def rgb(image: Any) -> Any:
    """An image in three colours: grey (of 8 or 16 bits), palette, CMYK and transparent ones are converted."""
    if image.mode.startswith("I"):  # 16 bits, which PIL would cut off at 255
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image.convert("RGB")


def seeded_view(view: Any, image: Any, seed: int) -> Tensor:
    """A random view that depends on image and seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        drawn: Tensor = view(image)
    return drawn


def mixed(*numbers: int) -> int:
    """32 well-mixed bits: torch's generator looks at no more, and neighbouring seeds must not be alike."""
    return zlib.crc32(repr(numbers).encode())
