"""When a run is saved."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from leapcore.checkpoints.files import Checkpoint, Checkpoints
from leapcore.core.duration import Duration
from leapcore.spec import CheckpointSpec

logger = logging.getLogger(__name__)


class Saver:
    """Saves a run every so often. All processes of the run have one.

    Args:
        checkpoints: Where to; None in processes that write nothing.
        spec: When, and how many are kept.
        steps_per_epoch: Steps in an epoch.
        snapshot: Gives all that is needed to go on; called between two steps, by all processes together.
        done: Steps that the run goes on from; as long as no other is taken, there is nothing new to save.

    Attributes:
        problem: Why the last checkpoint could not be written, empty if it was.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        spec: CheckpointSpec,
        steps_per_epoch: int,
        snapshot: Callable[[], Checkpoint],
        done: int = 0,
    ) -> None:
        self._checkpoints = checkpoints
        self._every, self._keep = spec.every, spec.keep
        self._steps_per_epoch = steps_per_epoch
        self._snapshot = snapshot
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

    def save(self, step: int, *, asked: bool = True) -> None:
        """Write a checkpoint, between two steps.

        Args:
            step: Finished steps.
            asked: Save even where the spec says ``never``.

        A checkpoint that cannot be written, such as on a full disk, does not end the run.
        """
        if step == self._done or (self._every == "never" and not asked):
            return
        saved = self._snapshot()
        self._saved_at = time.monotonic()
        if not all(weight.isfinite().all() for weight in saved.weights.values()):
            self.problem = f"The weights after step {step} are not finite and were not saved"
            logger.warning("%s", self.problem)
        elif self._checkpoints:
            self._write(self._checkpoints, step, saved)

    def _write(self, checkpoints: Checkpoints, step: int, saved: Checkpoint) -> None:
        try:
            checkpoints.save(step, saved, keep=self._keep)
            self.problem = ""
        except (
            OSError,
            TypeError,
            ValueError,
        ) as error:  # the last two: a scheduler that keeps more than text
            kept = checkpoints.latest()
            self.problem = f"The checkpoint of step {step} could not be written ({error})"
            logger.warning("%s; %s", self.problem, f"{kept} is kept" if kept else "there is none before it")
