"""The training loop: one step, one epoch, one run."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from torch import Tensor

from leapcore.core.alignment import ALIGNMENTS
from leapcore.core.distiller import Comparison
from leapcore.core.duration import Duration
from leapcore.core.features import LayerFeatures
from leapcore.engine.evaluate import accuracies
from leapcore.engine.setup import Parts
from leapcore.events import TargetChange


class Loop:
    """Trains the student, asking the scheduler for the target after each step.

    Args:
        parts: The run.
        hooks: pluggy's relay to the listeners.

    Attributes:
        step: Finished steps.
        changes: Every change of target so far, the first included.
        seconds: Wall time of training, evaluations left out.
    """

    def __init__(self, parts: Parts, hooks: Any) -> None:
        self.parts = parts
        self.hooks = hooks
        self.step = 0
        self.changes: list[TargetChange] = []
        self.seconds = 0.0
        self._mixing = torch.Generator().manual_seed(parts.spec.train.seed)
        self._pending: list[dict[str, Tensor]] = []  # figures of the steps since the last report
        self._reported = (0, 0.0)  # step and seconds at the last report

    def fit(self) -> None:
        """Take all steps."""
        self.parts.engine.train()
        epochs = map(self.parts.batches.epoch, itertools.count())
        batches = itertools.islice(itertools.chain.from_iterable(epochs), self.parts.total_steps)
        started = time.perf_counter()
        for pixels, _ in batches:
            self._train_step(self._mixed(pixels.to(self.parts.device, non_blocking=True).float() / 255))
            self.seconds += time.perf_counter() - started
            self._after_step()
            started = time.perf_counter()

    def _train_step(self, pixels: Tensor) -> None:
        parts, scheduler = self.parts, self.parts.scheduler
        if self.step == 0:
            self._choose_start(pixels)
        layer = scheduler.target
        comparison: Comparison = parts.engine(pixels, self._target(pixels, layer))
        parts.engine.backward(comparison.loss)
        parts.engine.step()
        figures = {name: getattr(comparison, name).detach() for name in ("loss", "patch_loss", "cls_loss")}
        score = None
        if scheduler.wants_score:
            figures["alignment"] = self._score(comparison)
            score = figures["alignment"].item()
        self._pending.append(figures)
        parts.ledger.record_step(layer, len(pixels), measured=scheduler.wants_score)
        self.step += 1
        if scheduler.step(score):
            self._report_change(layer)

    def _after_step(self) -> None:
        parts, every = self.parts, self.parts.spec.evaluate.knn
        per_epoch = parts.batches.steps_per_epoch
        if self.step % parts.spec.train.log_every == 0 or self.step == parts.total_steps:
            self._report_metrics()
        if self.step % per_epoch == 0:
            layer = parts.scheduler.target
            if parts.scheduler.end_epoch():
                self._report_change(layer)
        if isinstance(every, Duration) and self.step % every.in_steps(per_epoch) == 0:
            found = accuracies(parts, parts.student, knn=True)
            if found:
                self.hooks.leapcore_metrics(step=self.step, metrics=found)

    def _choose_start(self, pixels: Tensor) -> None:
        """Before the first step: let the scheduler see the untrained student, if it wants to."""
        parts, scores = self.parts, None
        if parts.scheduler.wants_calibration:
            scores = self._calibrate(pixels)
            parts.ledger.record_calibration(len(pixels))
        parts.scheduler.start(scores)
        self.changes.append(TargetChange(0, 0, parts.scheduler.target + 1, "start"))
        self.hooks.leapcore_target_changed(event=self.changes[-1])

    @torch.no_grad()
    def _calibrate(self, pixels: Tensor) -> list[float]:
        """The student's alignment with every teacher layer, in one pass of the teacher."""
        teacher, scores = self.parts.teacher, []
        with self._autocast():
            for layer, features in enumerate(teacher.iter_layers(teacher.prepare(pixels))):
                comparison = self.parts.engine(pixels, teacher.finalize(features, layer))
                scores.append(self._score(comparison).item())
        return scores

    @torch.no_grad()
    def _target(self, pixels: Tensor, layer: int) -> LayerFeatures:
        teacher = self.parts.teacher
        with self._autocast():
            (features,) = teacher(teacher.prepare(pixels), [layer])
        target: LayerFeatures = features
        return target

    def _autocast(self) -> torch.autocast:
        enabled = self.parts.spec.train.precision == "bfloat16"
        return torch.autocast(self.parts.device.type, torch.bfloat16, enabled=enabled)

    def _score(self, comparison: Comparison) -> Tensor:
        name = self.parts.scheduler.alignment
        assert name is not None, "only schedulers that name an alignment are given scores"
        return ALIGNMENTS[name].score(comparison.projected, comparison.target)

    def _mixed(self, pixels: Tensor) -> Tensor:
        """Mixup with one weight for the whole batch (LEAP, step 1)."""
        if not self.parts.spec.objective.mixup:
            return pixels
        weight = torch.rand((), generator=self._mixing).item()
        partner = torch.randperm(len(pixels), generator=self._mixing).to(pixels.device)
        return weight * pixels + (1 - weight) * pixels[partner]

    def _report_change(self, previous: int) -> None:
        scheduler = self.parts.scheduler
        change = TargetChange(self.step, previous + 1, scheduler.target + 1, scheduler.reason)
        self.changes.append(change)
        self.hooks.leapcore_target_changed(event=change)

    def _report_metrics(self) -> None:
        """Means over the steps since the last report."""
        parts, (step, seconds) = self.parts, self._reported
        images = (self.step - step) * parts.spec.train.batch_size
        means = {
            name: torch.stack([figures[name] for figures in self._pending]).mean().item()
            for name in self._pending[0]
        }
        metrics = {
            "epoch": self.step / parts.batches.steps_per_epoch,
            "target_layer": parts.scheduler.target + 1,
            **means,
            "lr": parts.engine.get_lr()[0],
            "flops_saved": parts.ledger.saved,
            "images_per_second": images / (self.seconds - seconds),
            "seconds": self.seconds,
        }
        self._pending, self._reported = [], (self.step, self.seconds)
        self.hooks.leapcore_metrics(step=self.step, metrics=metrics)
