"""The training loop: one step, one epoch, one run."""

from __future__ import annotations

import itertools
import logging
import math
import time
from typing import Any

import torch
from torch import Tensor

from leapcore.core.alignment import ALIGNMENTS
from leapcore.core.distiller import Comparison
from leapcore.core.duration import Duration
from leapcore.core.features import LayerFeatures
from leapcore.engine.evaluate import student_knn
from leapcore.engine.setup import Parts
from leapcore.errors import DivergedError
from leapcore.events import TargetChange

logger = logging.getLogger(__name__)

FEW = 4  # tokens per channel below which biased CKA of unrelated features exceeds about 0.2


class Loop:
    """Trains the student, asking the scheduler for the target after each step.

    Args:
        parts: The run.

    Attributes:
        hooks: pluggy's relay to the listeners; set before :meth:`fit`.
        step: Finished steps.
        changes: Every change of target so far, the first included.
        seconds: Wall time of training, evaluations left out.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.hooks: Any = None
        self.step = 0
        self.changes: list[TargetChange] = []
        self.seconds = 0.0
        self._mixing = torch.Generator().manual_seed(parts.spec.train.seed)
        self._pending: list[dict[str, Tensor]] = []  # figures of the steps since the last report
        self._reported = (0, 0.0)  # step and seconds at the last report
        self._layer, self._lr = 0, 0.0  # of the last step

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
        self._layer, self._lr = scheduler.target, parts.engine.get_lr()[0]
        comparison: Comparison = parts.engine(pixels, self._target(pixels, self._layer))
        parts.engine.backward(comparison.loss)
        measured = scheduler.wants_score
        score = self._note(comparison, measured)
        macs = self._score_macs(comparison) if measured else 0
        parts.ledger.record_step(self._layer, len(pixels), alignment_macs=macs)
        moved = scheduler.step(score)
        if moved:
            parts.lr_schedule.advance(self.step)
        parts.engine.step()  # after the schedule, since it works out the next step's learning rate
        self.step += 1
        if moved:
            self._moved_from(self._layer)

    def _note(self, comparison: Comparison, measured: bool) -> float | None:
        """Keep a step's figures for the next report; the alignment, if it is to be measured."""
        names = ["loss", "patch_loss", "cls_loss"]
        if self.parts.spec.objective.sigreg:
            names.append("sigreg_loss")
        figures = {name: getattr(comparison, name).detach() for name in names}
        self._pending.append(figures)
        if not measured:
            return None
        if self.step == 0:
            self._warn_of_few_tokens(comparison)
        score = figures["alignment"] = self._score(comparison)
        return float(score)

    def _warn_of_few_tokens(self, comparison: Comparison) -> None:
        tokens, width = self._sampled(comparison), comparison.target.shape[1]
        if self._alignment == "cka" and tokens < FEW * width:
            logger.warning(
                "linear CKA is measured on %d tokens of width %d: so few make it too high. "
                "Set curriculum.unbiased: true, or use larger batches.",
                tokens,
                width,
            )

    def _after_step(self) -> None:
        parts, every = self.parts, self.parts.spec.evaluate.knn
        per_epoch, done = parts.batches.steps_per_epoch, self.step == parts.total_steps
        if self.step % parts.spec.train.log_every == 0 or done:
            self._report_metrics()
        if self.step % per_epoch == 0:
            layer = parts.scheduler.target
            if parts.scheduler.end_epoch():
                parts.lr_schedule.advance(self.step)
                self._moved_from(layer)
        # After the last step comes the final evaluation, which measures the same.
        due = isinstance(every, Duration) and self.step % every.in_steps(per_epoch) == 0 and not done
        if due and (found := student_knn(parts)):
            self.hooks.leapcore_metrics(step=self.step, metrics=found)

    def _choose_start(self, pixels: Tensor) -> None:
        """Before the first step: let the scheduler see the untrained student, if it wants to."""
        parts, scores = self.parts, None
        if parts.scheduler.wants_calibration:
            scores = self._calibrate(pixels)
        parts.scheduler.start(scores)
        self.changes.append(TargetChange(0, 0, parts.scheduler.target + 1, "start"))
        self.hooks.leapcore_target_changed(event=self.changes[-1])

    @torch.no_grad()
    def _calibrate(self, pixels: Tensor) -> list[float]:
        """The student's alignment with every teacher layer, in one pass of the teacher."""
        teacher, scores, macs = self.parts.teacher, [], 0
        with self._autocast():
            for layer, features in enumerate(teacher.iter_layers(teacher.prepare(pixels))):
                comparison = self.parts.engine(pixels, teacher.finalize(features, layer))
                scores.append(self._score(comparison).item())
                macs += self._score_macs(comparison)
        self.parts.ledger.record_calibration(len(pixels), alignment_macs=macs)
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
        name, rows = self._alignment, self._sampled(comparison)
        return ALIGNMENTS[name].score(comparison.projected[:rows], comparison.target[:rows])

    def _score_macs(self, comparison: Comparison) -> int:
        return ALIGNMENTS[self._alignment].macs(self._sampled(comparison), comparison.target.shape[1])

    @property
    def _alignment(self) -> str:
        name = self.parts.scheduler.alignment
        assert name is not None, "only schedulers that name an alignment are given scores"
        return name

    def _sampled(self, comparison: Comparison) -> int:
        """How many tokens the score is measured on: those of the first ``sample_images`` images."""
        tokens, batch_size = len(comparison.target), self.parts.spec.train.batch_size
        images = min(self.parts.scheduler.sample_images or batch_size, batch_size)
        return tokens * images // batch_size

    def _mixed(self, pixels: Tensor) -> Tensor:
        """Mixup with one weight for the whole batch (LEAP, step 1)."""
        if not self.parts.spec.objective.mixup:
            return pixels
        weight = torch.rand((), generator=self._mixing).item()
        partner = torch.randperm(len(pixels), generator=self._mixing).to(pixels.device)
        return weight * pixels + (1 - weight) * pixels[partner]

    def _moved_from(self, previous: int) -> None:
        """The target moved and the step is over: reset the projector if asked to, and tell the listeners."""
        scheduler = self.parts.scheduler
        if self.parts.spec.objective.reset_projector:
            self.parts.projector.reset()
        change = TargetChange(self.step, previous + 1, scheduler.target + 1, scheduler.reason)
        self.changes.append(change)
        self.hooks.leapcore_target_changed(event=change)

    def _report_metrics(self) -> None:
        """Means over the steps since the last report; layer and rate of the last step."""
        parts, (step, seconds) = self.parts, self._reported
        images = (self.step - step) * parts.spec.train.batch_size
        means = {
            name: torch.stack([figures[name] for figures in self._pending if name in figures]).mean().item()
            for name in {name: None for figures in self._pending for name in figures}
        }
        self._stop_if_diverged(means["loss"])
        metrics = {
            "epoch": self.step / parts.batches.steps_per_epoch,
            "target_layer": self._layer + 1,
            **means,
            "lr": self._lr,
            "flops_saved": parts.ledger.saved,
            "images_per_second": images / (self.seconds - seconds),
            "seconds": self.seconds,
        }
        self._pending, self._reported = [], (self.step, self.seconds)
        self.hooks.leapcore_metrics(step=self.step, metrics=metrics)

    def _stop_if_diverged(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} before step {self.step} "
                f"(target layer {self._layer + 1}, learning rate {self._lr:.3g})",
                "Lower optimizer.lr, lengthen optimizer.warmup, or check images and weights.",
            )
