"""What all kinds of batches share: their form, and the processes that load them."""

from __future__ import annotations

import hashlib
import itertools
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from leapcore.data.images import Fault
from leapcore.errors import DataError

_GRACE = 30  # seconds that a worker lives on after SIGTERM


class Batch(NamedTuple):
    """A batch, or a process's share of it.

    Attributes:
        pixels: Bytes (B, 3, H, W).
        labels: (B,).
        faults: Images that could not be read on the way.
        digests: Bytes (B, 16), a hash of each view's bytes; (B, 0) where digests are not needed.
    """

    pixels: Tensor
    labels: Tensor
    faults: list[Fault]
    digests: Tensor

    @classmethod
    def of(cls, samples: list[tuple[Tensor, int, tuple[Fault, ...]]]) -> Batch:
        """Put samples (view, label, faults) together."""
        views, labels, faults = zip(*samples, strict=True)
        pixels, classes = default_collate(list(zip(views, labels, strict=True)))
        no_digests = torch.empty(len(pixels), 0, dtype=torch.uint8)
        return cls(pixels, classes, list(itertools.chain.from_iterable(faults)), no_digests)

    @classmethod
    def with_digests(cls, samples: list[tuple[Tensor, int, tuple[Fault, ...]]]) -> Batch:
        """Put samples (view, label, faults) together, with a digest of each view."""
        batch = cls.of(samples)
        return batch._replace(digests=torch.stack([_digest(view) for view in batch.pixels]))

    @classmethod
    def joined(cls, batches: list[Batch]) -> Batch:
        """Several batches as one."""
        pixels, labels, faults, digests = zip(*batches, strict=True)
        all_faults = list(itertools.chain.from_iterable(faults))
        return cls(torch.cat(pixels), torch.cat(labels), all_faults, torch.cat(digests))

    def to(self, device: torch.device) -> Batch:
        """The same with its pixels on a device; the copy is asynchronous where the pixels are pinned."""
        return self._replace(pixels=self.pixels.to(device, non_blocking=True))

    def chunk(self, count: int) -> list[Batch]:
        """The batch in so many equal parts; the faults stay with each."""
        size = -(-len(self.pixels) // count)
        return [self.rows(slice(start, start + size)) for start in range(0, len(self.pixels), size)]

    def rows(self, part: slice) -> Batch:
        """Some of its images; the faults stay."""
        return Batch(self.pixels[part], self.labels[part], self.faults, self.digests[part])


def _digest(view: Tensor) -> Tensor:
    digest = hashlib.blake2b(view.numpy().data, digest_size=16).digest()
    return torch.frombuffer(bytearray(digest), dtype=torch.uint8)


class _Loader(DataLoader[Any]):
    """Reports a dead worker where its batch is waited for; torch would do so in the midst of a step."""

    def __iter__(self) -> Any:
        before = signal.getsignal(signal.SIGCHLD)
        batches = super().__iter__()  # installs a handler that raises
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
        return batches


def loader(dataset: Any, workers: int, seed: int, **options: Any) -> DataLoader[Any]:
    """A loader in this many processes, which draws from a generator of its own."""
    return _Loader(
        dataset,
        num_workers=workers,
        worker_init_fn=_outlive_sigterm,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0 and not isinstance(dataset, IterableDataset),
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def _outlive_sigterm(worker: int) -> None:
    """A signal to the whole process group, as clusters send it, lets the step under way have its images."""
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def watched(batches: Iterator[Any], workers: int) -> Iterator[Any]:
    """The same batches, with an error that one can act on where a worker dies."""
    try:
        yield from batches
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        if not (workers and _is_death(error)):
            raise
        raise DataError(
            f"a process that loads images died: {(str(error) or type(error).__name__).splitlines()[0]}",
            "The machine may be short of memory, or of shared memory (df /dev/shm): use fewer data.workers.",
        ) from error


def _is_death(error: Exception) -> bool:
    """Whether a worker died: torch's message says so, or the worker's end of a connection is gone.

    The message of an error that was raised inside a worker begins with "Caught".
    """
    message = str(error)
    if isinstance(error, RuntimeError):
        return "killed by signal" in message or "exited unexpectedly" in message
    return not message.startswith("Caught ")
