"""What the machine does to a run, with a cause and a remedy."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from leapcore.distributed.place import place
from leapcore.errors import LeapcoreError, RanksError, ResourceError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_DISK_FULL = ("no space left", "disk quota exceeded", "file too large")
# What gloo and NCCL say when the other side of a connection is gone.
_PEER_GONE = (
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
    "Connection refused",
    "remote process exited",
    "NCCL communicator was aborted",
)


@contextmanager
def machine_errors_explained(where: Callable[[], str]) -> Iterator[None]:
    """Turn errors of memory, disk and connections into ones that a user can act on.

    Args:
        where: Says how far the run is, for the message.
    """
    try:
        yield
    except LeapcoreError:
        raise
    except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
        explained = _explained(error, where)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, where: Callable[[], str]) -> LeapcoreError | None:
    message = " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or any(sign in message.lower() for sign in _DISK_FULL):  # safetensors has no error number
        return ResourceError(
            f"the disk is full {where()}: {message}",
            "Free some space; if a checkpoint was written, go on from it with --resume.",
        )
    short = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    if short or any(sign in message.lower() for sign in _OUT_OF_MEMORY):
        return ResourceError(
            f"out of memory {where()}: {message[:200]}",
            "Set engine.accumulate: 2 or more, which keeps the batch, engine.gradient_checkpointing: true, "
            "or a smaller train.batch_size. Go on from the last checkpoint with --resume.",
        )
    several = place().size > 1 and not isinstance(error, OSError)
    if several and any(sign in message for sign in _PEER_GONE):
        return RanksError(
            f"another process of this run is gone {where()}",
            "What it printed last says why. Go on from the last checkpoint with --resume.",
        )
    return None
