"""A teacher's cache: features that are stored are read, the others computed and stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from leapcore.cache.encoding import Records, decode, encode, form_of
from leapcore.cache.limit import DiskLimit
from leapcore.cache.records import RecordStore, Stamp, as_batch
from leapcore.core.matching import TeacherFeatures
from leapcore.errors import PluginError


class FeatureCache:
    """Features of one teacher, by the digest of a view's bytes.

    Args:
        owner: The teacher's name.
        key: All else that decides its features (:func:`feature_key`), but for the layers.
        limit: Says whether something may be written.
        rank: Of this process.
    """

    def __init__(self, owner: str, key: dict[str, Any], limit: DiskLimit, rank: int) -> None:
        self._owner, self._key, self._limit, self._rank = owner, key, limit, rank
        self._layers: Sequence[int] = ()
        self._store: RecordStore | None = None
        self._hits = 0

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

        Raises:
            PluginError: The teacher gave features of two forms.
        """
        store, images = self._store_of(layers), [row.tobytes() for row in digests.numpy()]
        rows = dict[bytes, int]()
        for row, view in enumerate(images):
            rows.setdefault(view, row)  # views that are alike are read or computed once
        stored = {view: record for view in rows if (record := store.read(view))}
        self._hits += sum(view in stored and _is_hit(stored[view][1], stamp) for view in images)
        records: dict[bytes, bytes | Records] = {view: record for view, (record, _) in stored.items()}
        if missing := [view for view in rows if view not in stored]:
            whole = len(missing) == len(images)
            computed = compute(pixels if whole else pixels[[rows[view] for view in missing]])
            self._keep(store, missing, computed, stamp)
            if whole:
                return computed
            records |= zip(missing, encode(computed), strict=True)
        assert store.form is not None, "what is stored or computed has one"
        return decode(store.form, (records[view] for view in images), pixels.device)

    def _keep(
        self, store: RecordStore, views: Sequence[bytes], computed: TeacherFeatures, stamp: Stamp
    ) -> None:
        """Write what was computed, if there is room."""
        form = form_of(computed)
        if store.form not in (None, form):
            raise PluginError(
                f"a teacher's features do not have the form of those that it gave before in '{store.folder}'",
                "Delete that folder; a backbone's features must have one form for each layer.",
            )
        store.form = form
        if not self._limit.reached:
            batch = as_batch(views, encode(computed), form, stamp)
            self._limit.write(len(batch), lambda: store.append(batch))

    def _store_of(self, layers: Sequence[int]) -> RecordStore:
        if self._store is None or layers != self._layers:
            key = self._key | {"layers": list(layers)}
            content = json.dumps(key, sort_keys=True, default=str).encode()
            folder = self._limit.root / hashlib.blake2b(content, digest_size=16).hexdigest()
            self._limit.use(self._owner, folder)
            self._layers, self._store = layers, RecordStore(folder, key, self._rank)
        return self._store

    def refresh(self) -> None:
        """Learn what other processes have written."""
        if self._store:
            self._store.refresh()

    def take_hits(self) -> int:
        """How many images the teacher was spared since the last call."""
        hits, self._hits = self._hits, 0
        return hits


def _is_hit(computed: Stamp, now: Stamp) -> bool:
    """Whether a stored record spares the run something.

    What the run itself computed in this step or a later one was lost with the process that did: the run goes
    on from a checkpoint before it, whose ledger does not know of it. It counts as computed, once.
    """
    return not (computed.run == now.run and computed.step >= now.step)
