"""The processes of a run, and what they exchange.

Two groups connect them: one on the device (NCCL or gloo) for what is computed, and one on the host (gloo)
for messages. A process that dies closes its connections, so that the others notice it at once.
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

from leapcore.core.alignment import ReduceOp
from leapcore.distributed.place import Place, meeting_point, place
from leapcore.errors import LeapcoreError, RanksError, shared

T = TypeVar("T")

TIMEOUT = timedelta(hours=24)  # others wait while the first process evaluates


class Ranks:
    """The processes of a run, seen from one of them; alone, nothing is exchanged.

    Its collectives are torch's, by torch's names; every process must call them in the same order.

    Args:
        place: This process among all; the only one if None.
        host_group: The group on the host; None where this process is alone.
        device: Where this process computes; the CPU if None.
    """

    def __init__(
        self, place: Place | None = None, host_group: Any = None, device: torch.device | None = None
    ) -> None:
        self.rank, self.local_rank, self.size = place or Place()
        self.device = device or torch.device("cpu")
        self._host_group = host_group

    def __deepcopy__(self, memo: Any) -> Ranks:
        """Models that hold it are copied to be counted; processes cannot be."""
        return self

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which images of a batch are this process's."""
        size = batch_size // self.size
        return slice(self.rank * size, (self.rank + 1) * size)

    def all_reduce(self, tensor: Tensor, op: ReduceOp = "sum") -> Tensor:
        """The sum, largest or mean of all processes' tensors, the same on each, without gradient."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM)
        return total / self.size if op == "mean" else total

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """All processes' rows (n, C), one below the other: (size * n, C).

        A gradient through it reaches the rows of each process summed over all.
        """
        if self.size == 1:
            return rows
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(rows.contiguous()))

    def all_gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """Every process's numbers, by rank; all give equally many. They travel through the host."""
        own = torch.tensor(list(numbers), dtype=torch.float64)
        if self.size == 1:
            return [own.tolist()]
        gathered = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(gathered, own, group=self._host_group)
        return [row.tolist() for row in gathered]

    def all_gather_objects(self, value: T) -> list[T]:
        """Every process's value, by rank; it must be one that pickles."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value, group=self._host_group)
        return gathered

    def broadcast(self, value: T) -> T:
        """The first process's value, on every process; it must be one that pickles."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._host_group)
        return box[0]

    def permute(self, images: Tensor, order: Tensor) -> Tensor:
        """This process's share of a batch in another order, by one all-to-all exchange.

        Args:
            images: (n, ...), this process's share of the batch as it is.
            order: A permutation of the whole batch, the same on each process.
        """
        if self.size == 1:
            return images[order.to(images.device)]
        holders = order // len(images)
        own = order.split(len(images))[self.rank]
        rows_for = [
            others[holders_ == self.rank] % len(images)
            for others, holders_ in zip(order.split(len(images)), holders.split(len(images)), strict=True)
        ]
        sent = images[torch.cat(rows_for).to(images.device)]
        counts = torch.bincount(own // len(images), minlength=self.size).tolist()
        received = torch.empty_like(images)
        dist.all_to_all_single(received, sent, counts, [len(rows) for rows in rows_for])
        # They come sorted by holder; put each where the order wants it.
        places = torch.argsort(own // len(images), stable=True).to(images.device)
        return torch.empty_like(received).index_copy_(0, places, received)

    def check_equal(self, facts: Mapping[str, Any]) -> None:
        """Make sure that all processes start from the same.

        Args:
            facts: By name, what must be equal.

        Raises:
            RanksError: Something differs.
        """
        everywhere = self.all_gather_objects(dict(facts))
        for name in dict.fromkeys(key for theirs in everywhere for key in theirs):
            first = everywhere[0].get(name)
            rank = next((rank for rank, theirs in enumerate(everywhere) if theirs.get(name) != first), None)
            if rank is not None:
                differ = RanksError(
                    f"the processes of this run differ in {name}: {first!r} on rank 0, "
                    f"{everywhere[rank].get(name)!r} on rank {rank}",
                    "Give all of them the same spec, files and versions.",
                )
                raise shared(differ)

    def on_all(self, act: Callable[[], T]) -> T:
        """Do something on every process; where it fails on one, all of them raise its error."""
        result, error = None, None
        try:
            result = act()
        except LeapcoreError as problem:
            error = problem
        errors = self.all_gather_objects(error)
        rank = next((rank for rank, theirs in enumerate(errors) if theirs is not None), None)
        if rank is not None:
            raise _shared_by(errors[rank], rank, alike=all(str(e) == str(errors[0]) for e in errors))
        return result  # type: ignore[return-value]


def _shared_by(error: LeapcoreError | None, rank: int, *, alike: bool) -> LeapcoreError:
    assert error is not None
    if not alike:
        error.cause = f"on rank {rank}: {error.cause}"
    return shared(error)


@cache
def join() -> Ranks:
    """Meet the other processes; once in a process, since groups last as long as it does."""
    here = place()
    os.environ["LOCAL_RANK"] = str(_take_gpu(here))  # DeepSpeed asks for it
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if here.size == 1:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        return Ranks(device=device)
    if here.rank:  # the first process's warnings are everybody's
        logging.getLogger("leapcore").setLevel(logging.ERROR)
    os.environ |= {"RANK": str(here.rank), "WORLD_SIZE": str(here.size), **(point := meeting_point())}
    try:
        dist.init_process_group(backend, rank=here.rank, world_size=here.size)
        return Ranks(here, dist.new_group(backend="gloo", timeout=TIMEOUT), device)
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
