"""A teacher's cache: features that are known are read, the others computed and kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from leapcore.cache.budget import Budget
from leapcore.cache.layout import Layout, Records, as_records
from leapcore.cache.segments import Stamp, block_size
from leapcore.cache.shelf import Shelf
from leapcore.core.matching import TeacherFeatures

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


class FeatureCache:
    """Features of one teacher, by the digest of a view's bytes.

    Args:
        owner: The teacher's name.
        key: All else that decides its features (:func:`feature_key`), but for the layers.
        budget: Says whether something may be written.
        rank: Of this process.
    """

    def __init__(self, owner: str, key: dict[str, Any], budget: Budget, rank: int) -> None:
        self._owner, self._key, self._budget, self._rank = owner, key, budget, rank
        self._layers: Sequence[int] = ()
        self._shelf: Shelf | None = None
        self._found = 0

    def features(
        self,
        layers: Sequence[int],
        pixels: Tensor,
        digests: Tensor,
        stamp: Stamp,
        compute: Callable[[Tensor], TeacherFeatures],
    ) -> TeacherFeatures:
        """The features of all images in their order; those that are missing are computed together.

        Args:
            layers: Of the teacher, as the target asks for them.
            pixels: (B, 3, H, W) in [0, 1].
            digests: (B, 16), of the bytes that the pixels were made of.
            stamp: This step.
            compute: The teacher.
        """
        shelf, names = self._shelf_of(layers), [row.tobytes() for row in digests.numpy()]
        views = list(dict.fromkeys(names))  # alike ones once, so that all of them are given the same
        records, stamps = shelf.read(views)
        found = dict(zip(views, stamps, strict=True))
        self._found += sum(_spares(found[name], stamp) for name in names)
        layout, missing = shelf.layout, [view for view in views if found[view] is None]
        if missing:
            whole = len(missing) == len(names)
            computed = compute(pixels if whole else pixels[_first_rows(names, missing)])
            self._keep(shelf, missing, computed, stamp)
            if whole:
                return computed
            layout, records = Layout.of(computed), _completed(records, stamps, as_records(computed))
        assert layout is not None, "what was found or computed has one"
        return layout.features(records[_first_rows(views, names)], pixels.device)

    def _keep(self, shelf: Shelf, names: Sequence[bytes], computed: TeacherFeatures, stamp: Stamp) -> None:
        """Write what was computed, if there is room."""
        layout = Layout.of(computed)
        shelf.expect(layout)
        if not self._budget.spent:
            records = as_records(computed)
            size = records.nbytes + block_size(len(names))
            self._budget.write(size, lambda: shelf.append(names, records, layout, stamp))

    def _shelf_of(self, layers: Sequence[int]) -> Shelf:
        if self._shelf is None or layers != self._layers:
            key = self._key | {"layers": list(layers)}
            named = json.dumps(key, sort_keys=True, default=str).encode()
            path = self._budget.root / hashlib.blake2b(named, digest_size=16).hexdigest()
            self._budget.use(self._owner, path)
            self._layers, self._shelf = layers, Shelf(path, key, self._rank)
        return self._shelf

    def refresh(self) -> None:
        """Learn what other processes have written."""
        if self._shelf:
            self._shelf.refresh()

    def take_found(self) -> int:
        """How many images the teacher was spared since the last call."""
        found, self._found = self._found, 0
        return found


def _spares(found: Stamp | None, now: Stamp) -> bool:
    """Whether a view that was found, or not, spares the run something.

    What the run itself computed in this step or a later one was lost with the process that did: the run goes
    on from a checkpoint before it, whose ledger does not know of it. It counts as computed, once.
    """
    return found is not None and not (found.run == now.run and found.step >= now.step)


def _first_rows(names: Sequence[bytes], wanted: Sequence[bytes]) -> list[int]:
    """Where each that is wanted comes first."""
    row = {name: row for row, name in reversed(list(enumerate(names)))}
    return [row[name] for name in wanted]


def _completed(records: Records, stamps: Sequence[Stamp | None], computed: Records) -> Records:
    """The records that were found, with those that were computed in the places of the others."""
    missing = np.array([stamp is None for stamp in stamps])
    if missing.all():
        return computed
    records[missing] = computed
    return records
