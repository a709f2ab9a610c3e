"""TensorBoard: curves in the run's own folder, looked at with ``tensorboard --logdir runs``."""

from __future__ import annotations

from typing import Any

from leapcore.listeners.tracker import Tracker
from leapcore.plugins.events import RunStart, TargetChange
from leapcore.plugins.hooks import hookimpl
from leapcore.runs.names import TENSORBOARD


class TensorBoard(Tracker):
    """Events under ``tensorboard/``: one curve per figure, the spec and the changes of target as text."""

    _writer: Any = None

    def _begin(self, start: RunStart) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = start.step + 1 if start.step else None  # what came after the checkpoint that it goes on from
        self._writer = SummaryWriter(str(start.folder / TENSORBOARD), purge_step=purge)
        if not start.step:
            self._writer.add_text("spec", f"```yaml\n{start.spec.to_yaml()}```", 0)

    def _add(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    @hookimpl
    def leapcore_target_changed(self, event: TargetChange) -> None:
        """Add the change, and why."""
        super().leapcore_target_changed(event)
        text = f"{event.teacher}: layer {event.previous} -> {event.target} ({event.reason})"
        self._writer.add_text("curriculum", text, event.step)

    def close(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            self._writer.close()
