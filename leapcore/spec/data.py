"""Images, and how they are augmented."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from leapcore.spec.section import FileName, Section, Share


class AugmentSpec(Section):
    """Random changes to a training image."""

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=1)]] = Field(
        (0.14, 1.0),
        description="Smallest and largest share of an image's area that the crop keeps (LEAP: 0.14, 1).",
    )
    flip: Share = Field(0.5, description="Probability of a left-right flip (LEAP: 0.5).")
    color: Share = Field(
        0.8,
        description="Probability of colour jitter (LEAP: 0.8): brightness and contrast by up to 0.4, "
        "saturation 0.2, hue 0.1.",
    )
    gray: Share = Field(0.2, description="Probability of dropping the colours (LEAP: 0.2).")
    blur: float = Field(
        0.0,
        ge=0,
        description="Largest sigma of the Gaussian blur, in pixels; LEAP's own, 0.1, changes no 8-bit pixel.",
    )
    views: int | None = Field(
        None,
        ge=1,
        description="How many views an image has: epoch e uses number e modulo views; null: a new one in "
        "every epoch (LEAP).",
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"the smallest share comes first, got {list(scale)}")
        return scale


class DataSpec(Section):
    """The images. Labels are only used to evaluate."""

    source: str = Field(
        description="folder, digits, or one of timm's readers: hfds/NAME, hfids/NAME, wds/NAME, torch/NAME."
    )
    train: FileName = Field(
        "train",
        description="Training images: a split's name, or a folder with one sub-folder per class or with "
        "images alone, which have no labels.",
    )
    val: FileName = Field(
        "val",
        description="Validation images: the same. Without labels name the training images again, and set "
        "evaluate: {knn: never, linear: never}.",
    )
    root: FileName | None = Field(
        None, description="Folder where a reader other than 'folder' keeps its files."
    )
    image_size: int = Field(gt=0, description="Side of the square training view, in pixels (LEAP: 224).")
    crop: float = Field(
        0.875,
        gt=0,
        le=1,
        description="Share of each side that evaluation keeps, from the centre (LEAP: 224 / 256).",
    )
    augment: AugmentSpec = Field(AugmentSpec(), description="Random changes to a training image.")
    train_images: int | None = Field(
        None, gt=0, description="Number of training images, for a stream that does not report it."
    )
    val_images: int | None = Field(
        None, gt=0, description="Number of validation images, for a stream that does not report it."
    )
    image_key: str | None = Field(
        None, description="Column or suffix of the images, where a reader has several."
    )
    label_key: str | None = Field(None, description="Column or suffix of the labels.")
    workers: int = Field(
        4, ge=0, description="Processes that load images, of each process that trains; 0 loads there."
    )
    skip_limit: Share = Field(
        0.01, description="Share of the images that may be unreadable; they are skipped. More end the run."
    )
