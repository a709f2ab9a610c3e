"""A loop's whole state, taken and given back, and when that happens."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leapcore._version import __version__
from leapcore.core.duration import Duration
from leapcore.engine.checkpoints.checkpoint import Checkpoint, Checkpoints
from leapcore.engine.checkpoints.sharded import whole_optimizer_state, whole_weights
from leapcore.errors import CheckpointError
from leapcore.events import TargetChange
from leapcore.spec.engine import CheckpointSpec

if TYPE_CHECKING:
    from leapcore.engine.loop import Loop

logger = logging.getLogger(__name__)


class Saver:
    """Saves a loop every so often.

    Args:
        checkpoints: Where to.
        spec: When, and how many are kept.
        steps_per_epoch: Steps in an epoch.
        done: Steps that the run goes on from; as long as no other is taken, there is nothing new to save.

    Attributes:
        problem: Why the last checkpoint could not be written, empty if it was.
    """

    def __init__(
        self, checkpoints: Checkpoints, spec: CheckpointSpec, steps_per_epoch: int, done: int = 0
    ) -> None:
        self._checkpoints = checkpoints
        self._every, self._keep = spec.every, spec.keep
        self._steps_per_epoch = steps_per_epoch
        self._done = done
        self._saved_at = time.monotonic()
        self.problem = ""

    def due(self, step: int) -> bool:
        """Whether it is time to save after this step, by this process's clock."""
        if not isinstance(self._every, Duration):
            return False
        if self._every.unit == "min":
            return time.monotonic() - self._saved_at >= 60 * self._every.amount
        return step % self._every.in_steps(self._steps_per_epoch) == 0

    def save(self, loop: Loop, *, asked: bool = True) -> None:
        """Write a checkpoint. All processes call it; the first one writes.

        Args:
            loop: Between two steps.
            asked: Save even where the spec says ``never``.

        A checkpoint that cannot be written, such as on a full disk, does not end the run.
        """
        if loop.step == self._done or (self._every == "never" and not asked):
            return
        saved = snapshot(loop)
        self._saved_at = time.monotonic()
        if not all(weight.isfinite().all() for weight in saved.weights.values()):
            self.problem = f"The weights after step {loop.step} are not finite and were not saved"
            logger.warning("%s", self.problem)
        elif loop.parts.ranks.first:
            self._write(loop.step, saved)

    def _write(self, step: int, saved: Checkpoint) -> None:
        try:
            self._checkpoints.save(step, saved, keep=self._keep)
            self.problem = ""
        except (
            OSError,
            TypeError,
            ValueError,
        ) as error:  # also schedulers that keep more than text
            kept = self._checkpoints.latest()
            self.problem = f"The checkpoint of step {step} could not be written ({error})"
            logger.warning("%s; %s", self.problem, f"{kept} is kept" if kept else "there is none before it")


def snapshot(loop: Loop) -> Checkpoint:
    """Everything that a loop needs to go on. All processes call it."""
    parts = loop.parts
    tensors, numbers = whole_optimizer_state(parts.engine)
    state = {
        "leapcore": __version__,
        "spec": parts.spec.model_dump(mode="json"),
        "student": parts.student_spec.model_dump(mode="json"),
        "step": loop.step,
        "run": loop.run,
        "images": {"train": len(parts.splits.train)},
        "ranks": parts.ranks.size,
        "seconds": loop.seconds,
        "wall_seconds": time.perf_counter() - loop.started,
        "changes": [asdict(change) for change in loop.changes],
        "reported": list(loop.reported),
        "figures": loop.figures.state_dict(),
        "nonfinite": loop.nonfinite,
        "ledger": parts.ledger.state_dict(),
        "lr_schedule": parts.lr_schedule.state_dict(),
        "teachers": {
            teacher.name: {"fingerprint": teacher.fingerprint, "scheduler": teacher.scheduler.state_dict()}
            for teacher in parts.teachers
        },
        "skipped": parts.batches.skipped.reasons,
        "optimizer": numbers,
        "loss_scale": parts.engine.loss_scaler.state_dict() if parts.engine.loss_scaler else None,
        "mixing": loop.mixing.get_state().numpy().tobytes().hex(),
        "random": parts.ranks.gather(_random_state()),
    }
    return Checkpoint(Path(), state, whole_weights(parts.engine), tensors)


def restore(loop: Loop, saved: Checkpoint) -> None:
    """Go on where a checkpoint was taken; weights and optimizer are restored when the loop's parts are built.

    Raises:
        CheckpointError: A teacher is another, or its curriculum's state does not fit.
    """
    parts, state = loop.parts, saved.state
    for teacher in parts.teachers:
        _restore_teacher(teacher, state["teachers"][teacher.name], saved.path)
    loop.step, loop.seconds, loop.nonfinite = state["step"], state["seconds"], state["nonfinite"]
    loop.run = state.get("run", loop.run)
    loop.started = -state["wall_seconds"]
    loop.changes = [TargetChange(**change) for change in state["changes"]]
    loop.reported = tuple(state["reported"])
    loop.figures.load_state_dict(state["figures"])
    parts.ledger.load_state_dict(state["ledger"])
    parts.lr_schedule.load_state_dict(state["lr_schedule"])
    parts.batches.skipped.restore(state["skipped"])
    if parts.engine.loss_scaler and state["loss_scale"]:
        parts.engine.loss_scaler.load_state_dict(state["loss_scale"])
    loop.mixing.set_state(_bytes(state["mixing"]))
    if state["ranks"] == parts.ranks.size:
        _set_random_state(state["random"][parts.ranks.rank])


def _restore_teacher(teacher: Any, state: dict[str, Any], path: Path) -> None:
    try:
        teacher.scheduler.load_state_dict(state["scheduler"])
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint '{path}' is of another teacher: {error}", "Go on with the teacher it was made with."
        ) from error
    if teacher.fingerprint != state["fingerprint"]:
        raise CheckpointError(
            f"the weights of teacher '{teacher.name}' are not those that checkpoint '{path}' was made with",
            "Name the weights that it was made with.",
        )


def _random_state() -> dict[str, Any]:
    """This process's generators: Python's, NumPy's, torch's, and its GPU's."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_bytes(state["torch"]))
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
