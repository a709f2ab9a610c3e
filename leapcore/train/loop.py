"""The training loop: one step, one epoch, one run."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from leapcore.cache.records import Stamp
from leapcore.checkpoints.saver import Saver
from leapcore.core.distiller import Distillation, merged
from leapcore.data.images import share_faults
from leapcore.distributed.agreement import Agreed, agree
from leapcore.errors import DataError, DivergedError, shared
from leapcore.plugins.events import TargetChange, figure_name, per_teacher
from leapcore.plugins.loader import Nobody
from leapcore.train.booking import book_calibration, book_found, book_step
from leapcore.train.host_copy import ToHost
from leapcore.train.metrics import StepMetrics, averages, peak_memory
from leapcore.train.midway import evaluate_midway
from leapcore.train.setup import RunParts
from leapcore.train.signals import StopSignals
from leapcore.train.teacher import Teacher

LOSS = "/loss"  # no teacher's name


class Loop:
    """Trains the student, asking each teacher's scheduler for its target after each step.

    Args:
        parts: The run.
        hooks: Tells the listeners.
        started: When the run began, by ``time.perf_counter()``; now if None.

    Attributes:
        hooks: The same.
        step: Finished steps.
        run: Tells this run from all others, however often it is resumed.
        changes: Every change of target so far, the first included.
        seconds: Wall time of training, evaluations left out.
        started: When the run began; the time while it was interrupted left out.
        nonfinite: How many steps in a row had no finite loss.
        stopped: The signal that ended :meth:`fit` early, 0 if none did.
        metrics: Metrics of the steps since the last report.
        reported: Step and seconds at the last report.
        mixing: Draws the mixup.
        links: Where listeners keep the run, by their names.
    """

    def __init__(self, parts: RunParts, hooks: Any = None, started: float | None = None) -> None:
        self.parts = parts
        self.hooks = hooks or Nobody()
        self.step = 0
        self.run = parts.ranks.told_by_first(secrets.randbits(63))
        self.changes: list[TargetChange] = []
        self.seconds = 0.0
        self.started = time.perf_counter() if started is None else started
        self.nonfinite = 0
        self.stopped = 0
        self.metrics = StepMetrics(parts.ranks, parts.device)
        self.reported = (0, 0.0)
        self.mixing = torch.Generator().manual_seed(parts.spec.train.seed)
        self.links: dict[str, str] = {}
        self._signals = StopSignals()
        self._save_wanted = False
        self._waited = 0.0  # seconds for images, since the last report
        self._layers: dict[str, int] = {}  # each teacher's target in the last step
        self._lr = 0.0  # of the last step

    def fit(self, saver: Saver | None = None) -> None:
        """Take all steps that are left, unless a signal comes.

        Args:
            saver: Saves checkpoints.
        """
        parts = self.parts
        parts.engine.train()
        batches = itertools.islice(parts.batches.after(self.step), parts.total_steps - self.step)
        with self._signals:
            try:
                self._take_steps(batches, saver)
            except DataError as error:  # raised between two steps
                if saver and (parts.ranks.size == 1 or error.shared):
                    saver.save(self.step)
                raise
            # A signal may have come after the last step told of them.
            self.stopped = int(max(word[0] for word in parts.ranks.exchange([self._signals.received])))

    def _take_steps(self, batches: Iterable[tuple[Tensor, Tensor]], saver: Saver | None) -> None:
        parts, started = self.parts, time.perf_counter()
        for images, _ in batches:
            self._waited += time.perf_counter() - started
            self._pass_on_skipped()
            save = bool(saver and saver.due(self.step + 1))
            with parts.products():
                self._train_step(images.to(parts.device, non_blocking=True), save)
            self.seconds += time.perf_counter() - started
            self._after_step()
            done = self.step == parts.total_steps
            if saver and (self._save_wanted or done or self.stopped):
                saver.save(self.step, asked=bool(self.stopped))
            if self.stopped:
                return
            started = time.perf_counter()

    def _train_step(self, images: Tensor, save: bool) -> None:
        """One step on this process's share of a batch.

        Args:
            images: Bytes (B, 3, H, W).
            save: Whether this process's clock asks for a checkpoint after it.
        """
        parts, pixels = self.parts, self._mixed(images)
        if self.step == 0:
            self._choose_starts(pixels)
        self._layers = self._targets()
        self._lr = parts.engine.set_rate(parts.lr_schedule(self.step))
        result, sent = self._forward_and_backward(pixels)
        self._warn_of_few_tokens(result)
        book_step(parts, result)
        told = sent.arrived()  # by now, a GPU is busy with the backward pass
        moved = [teacher for teacher in parts.teachers if teacher.scheduler.step(told.get(teacher.name))]
        if moved:
            parts.lr_schedule.advance(self.step)
        agreed = self._agree(told[LOSS], save)
        if found := book_found(parts, self._layers, agreed.found):
            self.metrics.note(found)
        parts.engine.step(hold=not agreed.finite)
        self.step += 1
        for teacher in moved:
            self._moved(teacher, self._layers[teacher.name])
        self._stop_if_diverged(agreed.finite)

    def _forward_and_backward(self, pixels: Tensor) -> tuple[Distillation, ToHost]:
        """The gradients of this process's share, in as many parts as the spec asks for.

        Returns:
            The result, and what the host must know of it: the loss, and each alignment by teacher.
        """
        parts, results, stamp = self.parts, list[Distillation](), Stamp(self.run, self.step)
        engine, count = parts.engine, parts.spec.engine.accumulate
        for part, names in zip(pixels.chunk(count), parts.batches.digests.chunk(count), strict=True):
            if results:
                engine.backward(results[-1].loss)
                engine.step()  # only the last part's updates the weights
            with parts.autocast():
                targets = {t.name: t.features(part, names, stamp) for t in parts.teachers}
            results.append(engine(part, targets))
        result = merged(results)
        sent = ToHost({LOSS: result.loss, **self._note(result)})
        engine.backward(results[-1].loss)
        return result, sent

    def _agree(self, loss: float, save: bool) -> Agreed:
        """Before the weights move: what all processes say of this step."""
        place = [self.step, *self._targets().values()]
        found = [teacher.cache.take_hits() if teacher.cache else 0 for teacher in self.parts.teachers]
        agreed = agree(
            self.parts.ranks, place, loss=loss, signal=self._signals.received, save=save, found=found
        )
        self.stopped, self._save_wanted = agreed.signal, agreed.save
        return agreed

    def _pass_on_skipped(self) -> None:
        """Before a step: tell of its images that could not be read, and end the run if there are too many."""
        skipped = self.parts.batches.skipped
        if faults := share_faults(self.parts.ranks, skipped):
            images = {fault.name: fault.reason for fault in faults}
            self.hooks.leapcore_images_skipped(step=self.step, images=images)
            skipped.check(faults)

    def _warn_of_few_tokens(self, result: Distillation) -> None:
        for teacher in self.parts.teachers:
            if teacher.scheduler.wants_score:
                teacher.warn_of_few_tokens(result.comparisons[teacher.name])

    def _note(self, result: Distillation) -> dict[str, Tensor]:
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
                found["alignment"] = scores[teacher.name] = teacher.score(comparison)
            figures |= per_teacher(found, teacher.name, teachers)
        self.metrics.note(figures)
        return scores

    def _after_step(self) -> None:
        parts, done = self.parts, self.step == self.parts.total_steps
        if self.step % parts.spec.train.log_every == 0 or done:
            self._report_metrics()
        if self.step % parts.batches.steps_per_epoch == 0:
            self._end_epoch()
        if not done:  # after the last step come the final evaluations, which measure the same
            evaluate_midway(parts, self.step, self.hooks)

    def _end_epoch(self) -> None:
        layers = self._targets()
        for teacher in self.parts.teachers:
            if teacher.cache:
                teacher.cache.refresh()
        moved = [teacher for teacher in self.parts.teachers if teacher.scheduler.end_epoch()]
        if moved:
            self.parts.lr_schedule.advance(self.step)
        for teacher in moved:
            self._moved(teacher, layers[teacher.name])

    def _choose_starts(self, pixels: Tensor) -> None:
        """Before the first step: let each scheduler see the untrained student, if it wants to."""
        for teacher in self.parts.teachers:
            scores = None
            if teacher.scheduler.wants_calibration:
                self.hooks.leapcore_stage(stage=f"calibrating on {teacher.match.target.choices} layers")
                scores = self._calibrate(teacher, pixels)
            teacher.scheduler.start(scores)
            self._tell(TargetChange(0, 0, teacher.scheduler.target + 1, "start", teacher.name))

    def _calibrate(self, teacher: Teacher, pixels: Tensor) -> list[float]:
        # Each student pass would be compiled once more, without gradients, for a single scan.
        with self.parts.autocast(), torch.compiler.set_stance("eager_on_recompile"):
            scores, macs = teacher.calibrate(self.parts.engine, pixels)
        book_calibration(self.parts.ledger, teacher, self.parts.student_macs, len(scores), macs)
        return scores

    def _targets(self) -> dict[str, int]:
        return {teacher.name: teacher.scheduler.target for teacher in self.parts.teachers}

    def _mixed(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1], after mixup with one weight for the whole batch (LEAP, step 1)."""
        pixels = images.float() / 255
        if not self.parts.spec.objective.mixup:
            return pixels
        weight = torch.rand((), generator=self.mixing).item()
        order = torch.randperm(self.parts.spec.train.batch_size, generator=self.mixing)
        partners = self.parts.ranks.permuted(images, order).float() / 255
        return weight * pixels + (1 - weight) * partners

    def _moved(self, teacher: Teacher, previous: int) -> None:
        """A target moved and the step is over: reset the projectors if asked to, and tell the listeners."""
        scheduler = teacher.scheduler
        if self.parts.spec.objective.reset_projector:
            teacher.match.reset_projectors()
        moved = (self.step, previous + 1, scheduler.target + 1, scheduler.reason, teacher.name)
        self._tell(TargetChange(*moved, scheduler.moved_at, self.parts.ledger.saved))

    def _tell(self, change: TargetChange) -> None:
        self.changes.append(change)
        self.hooks.leapcore_target_changed(event=change)

    def _report_metrics(self) -> None:
        """Means over the steps since the last report; layer and rate of the last step."""
        parts, (step, seconds) = self.parts, self.reported
        images = (self.step - step) * parts.spec.train.batch_size
        metrics = {
            "epoch": self.step / parts.batches.steps_per_epoch,
            **self._target_layers(),
            **self.metrics.take_means(),
            **averages(parts.teachers),
            "lr": self._lr,
            "flops_spent": parts.ledger.spent,
            "flops_saved": parts.ledger.saved,
            "images_per_second": images / (self.seconds - seconds),
            "data_wait": self._waited / (self.seconds - seconds),
            "seconds": self.seconds,
            **peak_memory(parts.device),
        }
        self.reported, self._waited = (self.step, self.seconds), 0.0
        self.hooks.leapcore_metrics(step=self.step, metrics=metrics)

    def _target_layers(self) -> dict[str, int]:
        """The last step's, counted from 1."""
        layers = self._layers
        return {figure_name("target_layer", name, layers): layer + 1 for name, layer in layers.items()}

    def _stop_if_diverged(self, finite: bool) -> None:
        self.nonfinite = 0 if finite else self.nonfinite + 1
        limit = self.parts.spec.train.nonfinite_steps
        if finite or limit == "skip" or self.nonfinite < limit:
            return
        epoch, batch = divmod(self.step - 1, self.parts.batches.steps_per_epoch)
        layers = ", ".join(map(str, self._target_layers().values()))
        error = DivergedError(
            f"the loss was not finite in {self.nonfinite} steps in a row, up to step {self.step} (batch "
            f"{batch + 1} of epoch {epoch + 1}, target layer {layers}, learning rate {self._lr:.3g})",
            "Those steps changed no weight. Lower optimizer.lr, lengthen optimizer.warmup, or check images "
            "and weights.",
        )
        raise shared(error)
