"""The figures of single steps: copied to the host, and kept until they are reported as means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leapcore.core.distiller import Distillation
from leapcore.plugins.events import figure_name
from leapcore.train.parts import RunParts
from leapcore.train.teacher import Teacher


class HostCopy:
    """An asynchronous copy of a few numbers from the device to the host.

    Reading a tensor on a GPU blocks the host until the GPU has finished all its queued work, and then the GPU
    idles until the host gives it more. An asynchronous copy, queued before further work, keeps both busy.

    Args:
        numbers: Scalars on one device, by name.
    """

    def __init__(self, numbers: Mapping[str, Tensor]) -> None:
        self._names = list(numbers)
        on_device = torch.stack([number.detach().double() for number in numbers.values()])
        self._on_host, self._copied = on_device, None
        if on_device.is_cuda:
            self._on_host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
            self._on_host.copy_(on_device, non_blocking=True)
            self._copied = torch.cuda.current_stream().record_event()

    def wait(self) -> dict[str, float]:
        """The numbers, once they have arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self._names, self._on_host.tolist(), strict=True))


class StepMetrics:
    """Metrics of the steps since the last report.

    Args:
        parts: The run; each of its processes notes the figures of its own share of the batches.
    """

    def __init__(self, parts: RunParts) -> None:
        self._ranks = parts.ranks
        self._sigreg = bool(parts.spec.objective.sigreg)
        self._names = _figure_names(parts)
        self._pending: list[dict[str, Tensor]] = []

    def note_step(self, result: Distillation, scores: Mapping[str, Tensor]) -> None:
        """Keep a step's losses, and the alignments that were measured, by teacher."""
        figures = {"loss": result.loss.detach()}
        if self._sigreg:
            figures["sigreg_loss"] = result.sigreg_loss
        for teacher, names in self._names.items():
            for loss in ("patch_loss", "cls_loss", "embedding_loss"):
                if loss in names:
                    figures[names[loss]] = getattr(result.comparisons[teacher], loss)
            if teacher in scores:
                figures[names["alignment"]] = scores[teacher]
        self._pending.append(figures)

    def note_cache_hits(self, shares: Mapping[str, float]) -> None:
        """Keep the shares of a step's images that the caches held, by teacher; empty without caches."""
        if shares:
            device = self._ranks.device
            self._pending.append(
                {
                    self._names[teacher]["cache_hits"]: torch.full((), share, device=device)
                    for teacher, share in shares.items()
                }
            )

    def target_layers(self, targets: Mapping[str, int]) -> dict[str, int]:
        """Each teacher's target, counted from 1, as a figure."""
        return {self._names[teacher]["target_layer"]: target + 1 for teacher, target in targets.items()}

    def take_means(self) -> dict[str, float]:
        """Means over the steps and processes, and forget them."""
        means = {name: column.mean().item() for name, column in self._columns().items()}
        self._pending = []
        return means

    def _columns(self) -> dict[str, Tensor]:
        """Each figure's values, step by step, as means over the processes."""
        names = {name: None for figures in self._pending for name in figures}
        values = {
            name: torch.stack([figures[name] for figures in self._pending if name in figures])
            for name in names
        }
        return {name: self._ranks.all_reduce(column, "mean") for name, column in values.items()}

    def state_dict(self) -> list[dict[str, float]]:
        """What is not reported yet, the same on every process."""
        columns = {name: iter(column.tolist()) for name, column in self._columns().items()}
        return [{name: next(columns[name]) for name in figures} for figures in self._pending]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self._pending = [
            {name: torch.tensor(value, device=self._ranks.device) for name, value in figures.items()}
            for figures in state
        ]


def _figure_names(parts: RunParts) -> dict[str, dict[str, str]]:
    """What each figure of each teacher is called: with the teacher's name where there are several."""
    figures = ["target_layer", "patch_loss", "cls_loss", "alignment", "cache_hits"]
    figures += ["embedding_loss"] * bool(parts.spec.objective.patch_embedding)
    return {
        teacher.name: {figure: figure_name(figure, teacher.name, parts.teachers) for figure in figures}
        for teacher in parts.teachers
    }


def alignment_averages(teachers: Sequence[Teacher]) -> dict[str, float]:
    """The alignment as each curriculum sees it, which starts at 0 after every advance."""
    averages = {teacher.name: teacher.scheduler.ema for teacher in teachers}
    return {
        figure_name("alignment_average", name, teachers): value
        for name, value in averages.items()
        if value is not None
    }


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory in GB (10^9 bytes) that tensors took on a GPU since the last call; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return {"peak_memory_gb": peak}
