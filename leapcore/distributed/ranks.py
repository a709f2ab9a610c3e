"""What the processes of a run tell each other.

Two groups connect them: one on the device (NCCL or gloo) for what is computed, and one on the host (gloo)
for what is said. A process that dies closes its connections, so that the others learn of it at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from leapcore.distributed.place import Place, meeting_point, place
from leapcore.errors import LeapcoreError, RanksError, shared

T = TypeVar("T")

TIMEOUT = timedelta(hours=24)  # others wait while the first process evaluates


class Ranks:
    """The processes of a run, seen from one of them; alone, nothing is exchanged.

    Args:
        here: This process; the only one if None.
        talk: The group on the host; None where this process is alone.
    """

    def __init__(self, here: Place | None = None, talk: Any = None) -> None:
        self.rank, self.local_rank, self.size = here or Place()
        self._talk = talk

    def __deepcopy__(self, memo: Any) -> Ranks:
        """Models that hold it are copied to be counted; processes cannot be."""
        return self

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which images of a batch are this process's."""
        mine = batch_size // self.size
        return slice(self.rank * mine, (self.rank + 1) * mine)

    def mine_among_first(self, images: int, batch_size: int) -> int:
        """How many of a batch's first ``images`` this process holds; they are the first that it holds."""
        mine = self.share(batch_size)
        held: int = mine.stop - mine.start
        among: int = min(max(images - mine.start, 0), held)
        return among

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same on each, without gradient."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def max(self, tensor: Tensor) -> Tensor:
        """The largest over all processes, the same on each, without gradient."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, the same on each, without gradient."""
        return self.sum(tensor) / self.size

    def joined(self, rows: Tensor) -> Tensor:
        """All processes' rows (n, C), one below the other: (size * n, C).

        A gradient through it reaches the rows of each process summed over all.
        """
        if self.size == 1:
            return rows
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(rows.contiguous()))

    def permuted(self, images: Tensor, order: Tensor) -> Tensor:
        """This process's share of a batch in another order.

        Args:
            images: (n, ...), this process's share of the batch as it is.
            order: A permutation of the whole batch, the same on each process.
        """
        if self.size == 1:
            return images[order.to(images.device)]
        holders = order // len(images)
        wanted = order.split(len(images))[self.rank]
        sent = [
            others[holders_ == self.rank] % len(images)
            for others, holders_ in zip(order.split(len(images)), holders.split(len(images)), strict=True)
        ]
        given = images[torch.cat(sent).to(images.device)]
        counts = torch.bincount(wanted // len(images), minlength=self.size).tolist()
        received = torch.empty_like(images)
        dist.all_to_all_single(received, given, counts, [len(part) for part in sent])
        # They come sorted by holder; put each where the order wants it.
        places = torch.argsort(wanted // len(images), stable=True).to(images.device)
        return torch.empty_like(received).index_copy_(0, places, received)

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """Everybody's numbers, by rank; all give equally many."""
        mine = torch.tensor(list(numbers), dtype=torch.float64)
        if self.size == 1:
            return [mine.tolist()]
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine, group=self._talk)
        return [theirs.tolist() for theirs in found]

    def gather(self, thing: T) -> list[T]:
        """Everybody's thing, by rank; it must be one that pickles."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, thing, group=self._talk)
        return found

    def told_by_first(self, thing: T) -> T:
        """The first process's thing, on every process; it must be one that pickles."""
        if self.size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, src=0, group=self._talk)
        return box[0]

    def check_alike(self, facts: Mapping[str, Any]) -> None:
        """Make sure that all processes start from the same.

        Args:
            facts: What, and how it is here.

        Raises:
            RanksError: Something differs.
        """
        found = self.gather(dict(facts))
        for name in dict.fromkeys(key for theirs in found for key in theirs):
            mine = found[0].get(name)
            rank = next((rank for rank, theirs in enumerate(found) if theirs.get(name) != mine), None)
            if rank is not None:
                differ = RanksError(
                    f"the processes of this run differ in {name}: {mine!r} on rank 0, "
                    f"{found[rank].get(name)!r} on rank {rank}",
                    "Give all of them the same spec, files and versions.",
                )
                raise shared(differ)

    def together(self, act: Callable[[], T]) -> T:
        """Do something on every process; where it fails on one, all of them raise its error."""
        result, error = None, None
        try:
            result = act()
        except LeapcoreError as problem:
            error = problem
        errors = self.gather(error)
        found = next((rank for rank, theirs in enumerate(errors) if theirs is not None), None)
        if found is not None:
            raise _told(errors[found], found, alike=all(str(e) == str(errors[0]) for e in errors))
        return result  # type: ignore[return-value]

    def _reduced(self, tensor: Tensor, operation: Any) -> Tensor:
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total, operation)
        return total


def _told(error: LeapcoreError | None, rank: int, *, alike: bool) -> LeapcoreError:
    assert error is not None
    if not alike:
        error.cause = f"on rank {rank}: {error.cause}"
    return shared(error)


@cache
def join() -> Ranks:
    """Meet the other processes; once in a process, since groups last as long as it does."""
    here = place()
    os.environ["LOCAL_RANK"] = str(_take_gpu(here))  # DeepSpeed asks for it
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if here.size == 1:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        return Ranks()
    if here.rank:  # the first process's warnings are everybody's
        logging.getLogger("leapcore").setLevel(logging.ERROR)
    os.environ |= {"RANK": str(here.rank), "WORLD_SIZE": str(here.size), **(point := meeting_point())}
    try:
        dist.init_process_group(backend, rank=here.rank, world_size=here.size)
        return Ranks(here, dist.new_group(backend="gloo", timeout=TIMEOUT))
    except (dist.DistError, ValueError) as error:
        raise RanksError(
            f"process {here.rank} cannot meet the others at {':'.join(point.values())}: {error}",
            "Set MASTER_ADDR to the first machine, and MASTER_PORT to a port that is free there.",
        ) from error


def _take_gpu(here: Place) -> int:
    """The GPU of this process; a launcher may show each process its own alone.

    Raises:
        RanksError: There are fewer GPUs than processes.
    """
    if not torch.cuda.is_available():
        return here.local_rank
    seen = torch.cuda.device_count()
    if 1 < seen <= here.local_rank:
        raise RanksError(
            f"process {here.local_rank} of this machine has no GPU of its own: there are {seen}",
            "Start as many processes as there are GPUs.",
        )
    gpu = here.local_rank if seen > 1 else 0
    torch.cuda.set_device(gpu)
    return gpu


def device() -> torch.device:
    """Where this process computes."""
    if torch.cuda.is_available():
        join()  # which chooses
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
