"""The training loop: one step, one epoch, one run."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor

from leapcore.core.distiller import Distillation
from leapcore.core.duration import Duration
from leapcore.engine.evaluate import student_knn
from leapcore.engine.setup import Parts
from leapcore.engine.teachers import Teacher
from leapcore.errors import DivergedError
from leapcore.events import TargetChange, figure_name, per_teacher


class Loop:
    """Trains the student, asking each teacher's scheduler for its target after each step.

    Args:
        parts: The run.

    Attributes:
        hooks: Tells the listeners; set before :meth:`fit`.
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
        self._layers: dict[str, int] = {}  # each teacher's target in the last step
        self._lr = 0.0  # of the last step

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
        parts, teachers = self.parts, self.parts.teachers
        if self.step == 0:
            self._choose_starts(pixels)
        self._layers = {teacher.name: teacher.scheduler.target for teacher in teachers}
        self._lr = parts.engine.get_lr()[0]
        with self._autocast():
            targets = {teacher.name: teacher.features(pixels) for teacher in teachers}
        result: Distillation = parts.engine(pixels, targets)
        parts.engine.backward(result.loss)
        self._warn_of_few_tokens(result)
        self._book(result, len(pixels))
        scores = self._note(result)
        moved = [teacher for teacher in teachers if teacher.scheduler.step(scores.get(teacher.name))]
        if moved:
            parts.lr_schedule.advance(self.step)
        parts.engine.step()  # after the schedule, since it works out the next step's learning rate
        self.step += 1
        for teacher in moved:
            self._moved(teacher, self._layers[teacher.name])

    def _warn_of_few_tokens(self, result: Distillation) -> None:
        for teacher in self.parts.teachers:
            if teacher.scheduler.wants_score:
                teacher.warn_of_few_tokens(result.comparisons[teacher.name])

    def _book(self, result: Distillation, images: int) -> None:
        """Book a step's FLOPs."""
        teachers = self.parts.teachers
        scored = [teacher for teacher in teachers if teacher.scheduler.wants_score]
        self.parts.ledger.record_step(
            images,
            teacher_macs=sum(teacher.step_macs for teacher in teachers),
            student_macs=self.parts.student_macs
            + sum(teacher.head_macs[teacher.scheduler.target] for teacher in teachers),
            alignment_macs=sum(teacher.score_macs(result.comparisons[teacher.name]) for teacher in scored),
        )

    def _note(self, result: Distillation) -> dict[str, float]:
        """Keep a step's figures for the next report.

        Returns:
            The alignment with each teacher whose scheduler wants it.
        """
        objective, teachers = self.parts.spec.objective, self.parts.teachers
        names = ["patch_loss", "cls_loss"] + ["embedding_loss"] * bool(objective.patch_embedding)
        figures, scores = {"loss": result.loss.detach()}, {}
        if objective.sigreg:
            figures["sigreg_loss"] = result.sigreg_loss
        for teacher in teachers:
            comparison = result.comparisons[teacher.name]
            found = {name: getattr(comparison, name) for name in names}
            if teacher.scheduler.wants_score:
                found["alignment"] = teacher.score(comparison)
                scores[teacher.name] = float(found["alignment"])
            figures |= per_teacher(found, teacher.name, teachers)
        self._pending.append(figures)
        return scores

    def _after_step(self) -> None:
        parts, every = self.parts, self.parts.spec.evaluate.knn
        per_epoch, done = parts.batches.steps_per_epoch, self.step == parts.total_steps
        if self.step % parts.spec.train.log_every == 0 or done:
            self._report_metrics()
        if self.step % per_epoch == 0:
            self._end_epoch()
        # After the last step comes the final evaluation, which measures the same.
        due = isinstance(every, Duration) and self.step % every.in_steps(per_epoch) == 0 and not done
        if due and (found := student_knn(parts)):
            self.hooks.leapcore_metrics(step=self.step, metrics=found)

    def _end_epoch(self) -> None:
        layers = {teacher.name: teacher.scheduler.target for teacher in self.parts.teachers}
        moved = [teacher for teacher in self.parts.teachers if teacher.scheduler.end_epoch()]
        if moved:
            self.parts.lr_schedule.advance(self.step)
        for teacher in moved:
            self._moved(teacher, layers[teacher.name])

    def _choose_starts(self, pixels: Tensor) -> None:
        """Before the first step: let each scheduler see the untrained student, if it wants to."""
        for teacher in self.parts.teachers:
            scores = self._calibrate(teacher, pixels) if teacher.scheduler.wants_calibration else None
            teacher.scheduler.start(scores)
            self._tell(TargetChange(0, 0, teacher.scheduler.target + 1, "start", teacher.name))

    def _calibrate(self, teacher: Teacher, pixels: Tensor) -> list[float]:
        with self._autocast():
            scores, macs = teacher.calibrate(self.parts.engine, pixels)
        self.parts.ledger.record_calibration(
            len(pixels),
            teacher_macs=teacher.macs.until(*range(len(scores))),
            student_macs=self.parts.student_macs * len(scores) + sum(teacher.head_macs[: len(scores)]),
            alignment_macs=macs,
        )
        return scores

    def _autocast(self) -> torch.autocast:
        enabled = self.parts.spec.train.precision == "bfloat16"
        return torch.autocast(self.parts.device.type, torch.bfloat16, enabled=enabled)

    def _mixed(self, pixels: Tensor) -> Tensor:
        """Mixup with one weight for the whole batch (LEAP, step 1)."""
        if not self.parts.spec.objective.mixup:
            return pixels
        weight = torch.rand((), generator=self._mixing).item()
        partner = torch.randperm(len(pixels), generator=self._mixing).to(pixels.device)
        return weight * pixels + (1 - weight) * pixels[partner]

    def _moved(self, teacher: Teacher, previous: int) -> None:
        """A target moved and the step is over: reset the projectors if asked to, and tell the listeners."""
        scheduler = teacher.scheduler
        if self.parts.spec.objective.reset_projector:
            teacher.match.reset_projectors()
        self._tell(
            TargetChange(self.step, previous + 1, scheduler.target + 1, scheduler.reason, teacher.name)
        )

    def _tell(self, change: TargetChange) -> None:
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
            **self._target_layers(),
            **means,
            "lr": self._lr,
            "flops_saved": parts.ledger.saved,
            "images_per_second": images / (self.seconds - seconds),
            "seconds": self.seconds,
        }
        self._pending, self._reported = [], (self.step, self.seconds)
        self.hooks.leapcore_metrics(step=self.step, metrics=metrics)

    def _target_layers(self) -> dict[str, int]:
        """The last step's, counted from 1."""
        layers = self._layers
        return {figure_name("target_layer", name, layers): layer + 1 for name, layer in layers.items()}

    def _stop_if_diverged(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} before step {self.step} "
                f"(target layer {', '.join(map(str, self._target_layers().values()))}, "
                f"learning rate {self._lr:.3g})",
                "Lower optimizer.lr, lengthen optimizer.warmup, or check images and weights.",
            )
