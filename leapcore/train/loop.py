"""The training loop: one step, one epoch, one run."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from leapcore.cache.records import Stamp
from leapcore.checkpoints.saver import Saver
from leapcore.core.distiller import Distillation, merged
from leapcore.data.images import share_faults
from leapcore.data.loading import Batch
from leapcore.distributed.agreement import Agreed, agree
from leapcore.errors import DataError, DivergedError, shared
from leapcore.plugins.dispatch import Events
from leapcore.plugins.events import TargetChange
from leapcore.train.evaluate import evaluate_on_the_way
from leapcore.train.metrics import HostCopy, StepMetrics, alignment_averages, peak_memory
from leapcore.train.parts import RunParts
from leapcore.train.signals import StopSignals
from leapcore.train.teacher import Teacher

logger = logging.getLogger(__name__)

LOSS = "/loss"  # among numbers that are named after teachers, whose names hold no slash


class Loop:
    """Trains the student, asking each teacher's scheduler for its target after each step.

    Args:
        parts: The run.
        events: Receives what happens.
        started: When the run began, by ``time.perf_counter()``; now if None.

    Attributes:
        step: Finished steps.
        run_id: Tells this run from all others, however often it is resumed.
        changes: Every change of target so far, the first included.
        seconds: Wall time of training, evaluations left out.
        started: When the run began; the time while it was interrupted left out.
        nonfinite: How many steps in a row had no finite loss.
        stopped: The signal that ended :meth:`fit` early, 0 if none did.
        metrics: Metrics of the steps since the last report.
        links: Where listeners keep the run, by their names.
    """

    def __init__(self, parts: RunParts, events: Events | None = None, started: float | None = None) -> None:
        self.parts = parts
        self.events = events or Events()
        self.started = time.perf_counter() if started is None else started
        self.step = 0
        self.run_id: int = parts.ranks.broadcast(secrets.randbits(63))
        self.changes: list[TargetChange] = []
        self.seconds = 0.0
        self.nonfinite = 0
        self.stopped = 0
        self.metrics = StepMetrics(parts)
        self.links: dict[str, str] = {}
        self._reported = (0, 0.0)  # step and seconds at the last report
        self._mixup = torch.Generator().manual_seed(parts.spec.train.seed)
        self._signals = StopSignals()
        self._save_wanted = False
        self._waited = 0.0  # seconds for images, since the last report
        self._targets: dict[str, int] = {}  # each teacher's in the last step, 0-based
        self._cost_rows: dict[tuple[int | str, ...], dict[str, int]] = {}
        self._lr = 0.0  # of the last step
        self._warned = False  # of few tokens

    def fit(self, saver: Saver | None = None) -> None:
        """Take all steps that are left, unless a signal comes.

        Args:
            saver: Saves checkpoints.
        """
        parts = self.parts
        parts.engine.train()
        batches = itertools.islice(parts.batches.after(self.step), parts.length.total_steps - self.step)
        if self.step:  # else they are looked at when the curricula start
            self._warn_of_few_tokens()
        with self._signals:
            try:
                self._take_steps(batches, saver)
            except DataError as error:  # raised between two steps
                if saver and (parts.ranks.size == 1 or error.shared):
                    saver.save(self.step)
                raise
            # A signal may have come after the last step's exchange.
            received = parts.ranks.all_gather_numbers([self._signals.received])
            self.stopped = int(max(signals[0] for signals in received))

    def _take_steps(self, batches: Iterable[Batch], saver: Saver | None) -> None:
        """Each step: images, training, reports and evaluations, checkpoint."""
        parts, began = self.parts, time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - began
            self._report_skipped_images()
            due = bool(saver and saver.due(self.step + 1))
            with tf32(parts.spec.train.precision != "float32"):
                self.train_step(batch.to(parts.device), save=due)
            self.seconds += time.perf_counter() - began
            done = self.step == parts.length.total_steps
            if self.step % parts.spec.train.log_every == 0 or done:
                self._report_metrics()
            if self.step % parts.length.steps_per_epoch == 0:
                self._end_epoch()
            if not done:  # after the last step come the final evaluations, which measure the same
                evaluate_on_the_way(parts, self.step, self.events)
            if saver and (self._save_wanted or done or self.stopped):
                saver.save(self.step, asked=bool(self.stopped))
            if self.stopped:
                return
            began = time.perf_counter()

    def train_step(self, batch: Batch, *, save: bool = False) -> None:
        """One step on this process's share of a batch.

        Args:
            batch: On the device.
            save: Whether this process's clock asks for a checkpoint after it.
        """
        parts, teachers = self.parts, self.parts.teachers
        pixels = self._mixed(batch.pixels)
        if self.step == 0:
            self._choose_starts(pixels)
        self._targets = self._next_targets()
        self._lr = parts.engine.set_rate(parts.lr_schedule(self.step))

        measured = [teacher.name for teacher in teachers if teacher.scheduler.wants_score]
        on_host = self._forward_and_backward(batch._replace(pixels=pixels), measured)
        self._record_costs(measured)
        numbers = on_host.wait()  # by now, a GPU is busy with the backward pass

        moved = [teacher for teacher in teachers if teacher.scheduler.step(numbers.get(teacher.name))]
        if moved:
            parts.lr_schedule.advance(self.step)
        agreed = self._agree(numbers[LOSS], save)
        self._record_cache_hits(agreed.cache_hits)
        parts.engine.step(hold=not agreed.finite)
        self.step += 1
        for teacher in moved:
            self._moved(teacher, self._targets[teacher.name])
        self._stop_if_diverged(agreed.finite)

    def _record_costs(self, measured: list[str]) -> None:
        """Record this step's row of the table of costs, looked up again only when it is another one."""
        row: tuple[int | str, ...] = (*self._targets.values(), *measured)
        if row not in self._cost_rows:
            self._cost_rows[row] = self.parts.costs.row(self._targets, measured)
        self.parts.ledger.record_step(**self._cost_rows[row])

    def _forward_and_backward(self, batch: Batch, measured: list[str]) -> HostCopy:
        """The gradients of this process's share, in as many parts as the spec asks for.

        Args:
            batch: With its pixels as (B, 3, H, W) in [0, 1].
            measured: The teachers whose alignment is measured.

        Returns:
            What the host must know of the result: the loss, and each alignment by teacher.
        """
        parts, stamp = self.parts, Stamp(self.run_id, self.step)
        engine, results = parts.engine, list[Distillation]()
        for part in batch.chunk(parts.spec.engine.accumulate):
            if results:
                engine.backward(results[-1].loss)
                engine.step()  # only the last part's updates the weights
            with parts.autocast:
                features = {t.name: t.features(part.pixels, part.digests, stamp) for t in parts.teachers}
            results.append(engine(part.pixels, features))
        result = merged(results)
        scores = self._scores(result, measured)
        self.metrics.note_step(result, scores)
        on_host = HostCopy({LOSS: result.loss, **scores})
        engine.backward(results[-1].loss)
        return on_host

    def _scores(self, result: Distillation, measured: list[str]) -> dict[str, Tensor]:
        """The student's alignment with each teacher whose scheduler waits for it."""
        scores = {}
        for teacher in self.parts.teachers:
            if teacher.alignment and teacher.name in measured:
                comparison = result.comparisons[teacher.name]
                scores[teacher.name] = teacher.alignment(comparison.projected, comparison.target)
        return scores

    def _mixed(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1], after mixup with one weight for the whole batch (LEAP, step 1).

        Args:
            images: Bytes (B, 3, H, W).
        """
        pixels = images.float() / 255
        if not self.parts.spec.objective.mixup:
            return pixels
        weight = torch.rand((), generator=self._mixup).item()
        order = torch.randperm(self.parts.spec.train.batch_size, generator=self._mixup)
        partners = self.parts.ranks.permute(images, order).float() / 255
        return weight * pixels + (1 - weight) * partners

    def _agree(self, loss: float, save: bool) -> Agreed:
        """Before the weights move: what all processes know of this step."""
        position = [self.step, *self._next_targets().values()]
        hits = [teacher.cache.take_hits() if teacher.cache else 0 for teacher in self.parts.teachers]
        signal = self._signals.received
        agreed = agree(self.parts.ranks, position, loss=loss, signal=signal, save=save, cache_hits=hits)
        self.stopped, self._save_wanted = agreed.signal, agreed.save
        return agreed

    def _record_cache_hits(self, hits: list[int]) -> None:
        """Take back what the teachers' caches spared them in this step, of so many images each."""
        parts, shares = self.parts, dict[str, float]()
        for teacher, images in zip(parts.teachers, hits, strict=True):
            if teacher.cache:
                cost = parts.costs.teachers[teacher.name].teacher[self._targets[teacher.name]]
                parts.ledger.record_spared(images * cost)
                shares[teacher.name] = images / parts.spec.train.batch_size
        self.metrics.note_cache_hits(shares)

    def _report_skipped_images(self) -> None:
        """Report the images of this batch that could not be read; too many of them end the run."""
        skipped = self.parts.batches.skipped
        if faults := share_faults(self.parts.ranks, skipped):
            self.events.images_skipped(self.step, {fault.name: fault.reason for fault in faults})
            skipped.check(faults)

    def _choose_starts(self, pixels: Tensor) -> None:
        """Before the first step: let each scheduler see the untrained student, if it wants to."""
        parts = self.parts
        for teacher in parts.teachers:
            scores = None
            if teacher.scheduler.wants_calibration:
                self.events.stage(f"calibrating on {teacher.match.target.choices} layers")
                # Each student pass would be compiled once more, without gradients, for a single scan.
                with parts.autocast, torch.compiler.set_stance("eager_on_recompile"):
                    scores = teacher.calibrate(parts.engine, pixels)
                parts.costs.record_calibration(parts.ledger, teacher.name)
            teacher.scheduler.start(scores)
            self._announce(TargetChange(0, 0, teacher.scheduler.target + 1, "start", teacher.name))

    def _end_epoch(self) -> None:
        before = self._next_targets()
        for teacher in self.parts.teachers:
            if teacher.cache:
                teacher.cache.refresh()
        moved = [teacher for teacher in self.parts.teachers if teacher.scheduler.end_epoch()]
        if moved:
            self.parts.lr_schedule.advance(self.step)
        for teacher in moved:
            self._moved(teacher, before[teacher.name])

    def _moved(self, teacher: Teacher, previous: int) -> None:
        """A target moved and the step is over: reset the projectors if the spec says so, and report it."""
        scheduler = teacher.scheduler
        if self.parts.spec.objective.reset_projector:
            teacher.match.reset_projectors()
        change = TargetChange(
            self.step,
            previous + 1,
            scheduler.target + 1,
            scheduler.reason,
            teacher.name,
            scheduler.moved_at,
            self.parts.ledger.saved,
        )
        self._announce(change)

    def _announce(self, change: TargetChange) -> None:
        self.changes.append(change)
        self.events.target_changed(change)
        self._warn_of_few_tokens()

    def _warn_of_few_tokens(self) -> None:
        """Warn once if an alignment is measured on too few tokens for the width; deep stages have fewest."""
        for teacher in self.parts.teachers:
            costs, target = self.parts.costs.teachers[teacher.name], teacher.scheduler.target
            measured = target < teacher.match.target.choices - 1 or teacher.scheduler.wants_score
            if costs.few_tokens(target) and measured and not self._warned:
                self._warned = True
                logger.warning(
                    "linear CKA is measured on %d tokens of width %d: so few make it too high. "
                    "Set curriculum.unbiased: true, or use larger batches.",
                    costs.tokens[target],
                    costs.widths[target],
                )

    def _next_targets(self) -> dict[str, int]:
        return {teacher.name: teacher.scheduler.target for teacher in self.parts.teachers}

    def _report_metrics(self) -> None:
        """Means over the steps since the last report; layer and rate of the last step."""
        parts, (step, seconds) = self.parts, self._reported
        images = (self.step - step) * parts.spec.train.batch_size
        metrics = {
            "epoch": self.step / parts.length.steps_per_epoch,
            **self.metrics.target_layers(self._targets),
            **self.metrics.take_means(),
            **alignment_averages(parts.teachers),
            "lr": self._lr,
            "flops_spent": parts.ledger.spent,
            "flops_saved": parts.ledger.saved,
            "images_per_second": images / (self.seconds - seconds),
            "data_wait": self._waited / (self.seconds - seconds),
            "seconds": self.seconds,
            **peak_memory(parts.device),
        }
        self._reported, self._waited = (self.step, self.seconds), 0.0
        self.events.metrics(self.step, metrics)

    def _stop_if_diverged(self, finite: bool) -> None:
        self.nonfinite = 0 if finite else self.nonfinite + 1
        limit = self.parts.spec.train.nonfinite_steps
        if finite or limit == "skip" or self.nonfinite < limit:
            return
        epoch, batch = divmod(self.step - 1, self.parts.length.steps_per_epoch)
        layers = ", ".join(str(target + 1) for target in self._targets.values())
        error = DivergedError(
            f"the loss was not finite in {self.nonfinite} steps in a row, up to step {self.step} (batch "
            f"{batch + 1} of epoch {epoch + 1}, target layer {layers}, learning rate {self._lr:.3g})",
            "Those steps changed no weight. Lower optimizer.lr, lengthen optimizer.warmup, or check images "
            "and weights.",
        )
        raise shared(error)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of the loop itself; its parts have states of their own."""
        return {
            "step": self.step,
            "run": self.run_id,
            "seconds": self.seconds,
            "wall_seconds": time.perf_counter() - self.started,
            "changes": [asdict(change) for change in self.changes],
            "reported": list(self._reported),
            "metrics": self.metrics.state_dict(),
            "nonfinite": self.nonfinite,
            "mixing": self._mixup.get_state().numpy().tobytes().hex(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.step, self.run_id = state["step"], state["run"]
        self.seconds, self.nonfinite = state["seconds"], state["nonfinite"]
        self.started -= state["wall_seconds"]
        self.changes = [TargetChange(**change) for change in state["changes"]]
        step, seconds = state["reported"]
        self._reported = (step, seconds)
        self.metrics.load_state_dict(state["metrics"])
        self._mixup.set_state(torch.tensor(list(bytes.fromhex(state["mixing"])), dtype=torch.uint8))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """What is left in float32 in a 16-bit run, such as the alignment, needs only TF32's 11 bits."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before
