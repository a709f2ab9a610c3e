"""Reading single images, and keeping count of those that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from PIL import EpsImagePlugin, Image

from leapcore.data.views import rgb
from leapcore.distributed.ranks import Ranks
from leapcore.errors import DataError, shared

EpsImagePlugin.gs_binary = False  # or PIL would start Ghostscript for PostScript, whatever a file's name
_SUBSTITUTES = 10  # images in a row that are tried in place of a broken one


class Fault(NamedTuple):
    """An image that cannot be used.

    Attributes:
        name: Its file, or its number where it has none.
        reason: What went wrong.
        hopeless: Whether its neighbours cannot be used either.
    """

    name: str
    reason: str
    hopeless: bool = False


class Sample(NamedTuple):
    """An image as it was read.

    Attributes:
        image: In RGB; None if it could not be read.
        label: Its class, -1 if it has none.
        faults: What could not be read on the way.
    """

    image: Any
    label: int
    faults: tuple[Fault, ...] = ()


def read(images: Any, index: int) -> Sample:
    """Read an image: a file's bytes, or what a data set decoded by itself."""
    try:
        image, label = _raw(images, index)
        opened = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
        return Sample(rgb(opened), int(label))
    # Broken files make decoders fail in every way, and data sets of plugins may too.
    except Exception as error:
        message = str(error).partition(" <_io.")[0]  # PIL names the object that held the bytes
        fault = Fault(image_name(images, index), f"{type(error).__name__}: {message}")
        return Sample(None, -1, (fault,))


def read_or_next(images: Any, index: int) -> Sample:
    """Read an image; in place of a broken one the next that can be read, which keeps batches whole."""
    faults: tuple[Fault, ...] = ()
    for nearby in range(index, index + min(_SUBSTITUTES, len(images))):
        sample = read(images, nearby % len(images))
        faults += sample.faults
        if sample.image is not None:
            return sample._replace(faults=faults)
    return Sample(Image.new("RGB", (1, 1)), -1, (*faults, faults[-1]._replace(hopeless=True)))


def _raw(images: Any, index: int) -> tuple[Any, Any]:
    """What a data set gives. timm's would give the next image where a file cannot be opened."""
    if not getattr(images, "load_bytes", False):
        image, label = images[index]
        return image, label
    file, label, *_ = images.reader[index]
    with file:
        return file.read(), -1 if label is None else label


def image_name(images: Any, index: int) -> str:
    """An image's file; its number where it has none."""
    try:
        name = images.filename(index, absolute=True)
    # Only timm's data sets have names, and not all of those.
    except Exception:
        name = None
    return str(name or f"image {index}")


class Skipped:
    """The images that a run could not use.

    Args:
        total: How many images there are.
        limit: The share of them that may be skipped.

    Attributes:
        reasons: Why, by the image's name.
    """

    def __init__(self, total: int, limit: float) -> None:
        self.total = total
        self.limit = limit
        self.reasons: dict[str, str] = {}
        self._fresh: list[Fault] = []
        self._hopeless = False

    def add(self, faults: Iterable[Fault]) -> None:
        """Record those that are new."""
        for fault in map(Fault._make, faults):
            self._hopeless |= fault.hopeless
            if fault.name not in self.reasons or fault.hopeless:
                self.reasons[fault.name] = fault.reason
                self._fresh.append(fault)

    def take_fresh(self) -> list[Fault]:
        """Those that came since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def restore(self, reasons: dict[str, str]) -> None:
        """Go on with those of an earlier part of the run; too many may have been mended, so count anew."""
        self.reasons = dict(reasons) if len(reasons) <= self.limit * self.total else {}

    def check(self, newest: Iterable[Fault] = ()) -> None:
        """Stop where there are too many.

        Args:
            newest: Those of the batch that is next. A run that goes on reads it again, so it forgets them.

        Raises:
            DataError: More images than the limit allows cannot be used.
        """
        count = len(self.reasons)
        if not (self._hopeless or count > self.limit * self.total):
            return
        name, reason = next(reversed(self.reasons.items()))
        cause = f"{count:,} of {self.total:,} images cannot be used, more than the {self.limit:.1%} that "
        cause += "data.skip_limit allows"
        if self._hopeless:
            cause = f"{_SUBSTITUTES} images in a row cannot be used"
        error = DataError(
            f"{cause}; the last is {name}: {reason}",
            "Are the files still there? Mend or remove the broken ones, or raise data.skip_limit.",
        )
        for fault in newest:
            self.reasons.pop(fault.name, None)
        raise shared(error)  # in training, every process raises it alike


def share_faults(ranks: Ranks, skipped: Skipped) -> list[Fault]:
    """The images that some process newly could not read; every process records all of them."""
    fresh = skipped.take_fresh()
    if not any(count for (count,) in ranks.all_gather_numbers([len(fresh)])):
        return []
    faults = [fault for theirs in ranks.all_gather_objects(fresh) for fault in theirs]
    skipped.add(faults)
    skipped.take_fresh()
    return faults
