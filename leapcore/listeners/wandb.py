"""Weights & Biases: curves, spec and summary in a project there."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

from leapcore.listeners.tracker import Service, summary
from leapcore.plugins.events import RunReport, RunStart
from leapcore.plugins.hooks import hookimpl

TIMEOUT = 30  # seconds that a server that does not answer may hold up a run's start, and its end


class WeightsAndBiases(Service):
    """A run at Weights & Biases.

    Who logs it is set by ``wandb login`` or ``WANDB_API_KEY``, never by a spec.

    Args:
        project: The project there, made if it is not there.
        entity: The team or user it belongs to; null for the one that W&B has as default.
        group: Runs of one group are shown together.
        tags: Words to find the run by.
        mode: Whether to send, or to keep files that ``wandb sync`` sends later; null leaves it to WANDB_MODE.
    """

    name = "wandb"
    needs = ("wandb", 'pip install "leapcore[wandb]"')

    def __init__(
        self,
        *,
        project: str = "leapcore",
        entity: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
        mode: Literal["online", "offline"] | None = None,
    ) -> None:
        self._place: dict[str, Any] = {"project": project, "entity": entity, "group": group, "mode": mode}
        self._tags = tags
        self._run: Any = None
        self._finished = False

    def _open(self, start: RunStart) -> str:
        import wandb

        self.run = self.run or secrets.token_hex(4)
        with _no_questions():
            self._run = wandb.init(
                **self._place,
                tags=self._tags,
                id=self.run,
                name=start.spec.name,
                resume="allow",
                dir=str(self.folder),
                settings=_settings(wandb),
            )
        facts = {"spec": start.spec.model_dump(mode="json"), "folder": str(start.folder.resolve())}
        self._run.config.update(facts, allow_val_change=True)
        if self._run.resumed and self._run.step <= self._step:  # a kill took what W&B had not sent yet
            self._step, self._figures = self._run.step, []
        settings = self._run.settings
        return f"wandb sync {settings.sync_dir}" if settings.mode == "offline" else str(self._run.url)

    def _send(self, step: int, figures: dict[str, float]) -> None:
        # A step that W&B has closed takes no more, such as the last one's accuracy after a resume.
        self._run.log(figures, step=max(step, self._run.step))

    @hookimpl
    def leapcore_run_finished(self, report: RunReport) -> None:
        """Add the summary, and the curriculum as a table."""
        import wandb

        self._finished = report.status == "finished"
        self._run.summary.update(summary(report))
        rows = [asdict(change) for change in report.curriculum]
        if rows:
            table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            self._run.log({"curriculum": table}, step=max(report.steps, self._run.step))

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish(exit_code=0 if self._finished else 1)


def _settings(wandb: Any) -> Any:
    """Quiet, beside other runs of this process, and not patient for ever."""
    known = {"finish_timeout": TIMEOUT} if hasattr(wandb.Settings(), "finish_timeout") else {}
    return wandb.Settings(console="off", silent=True, init_timeout=TIMEOUT, reinit="create_new", **known)


@contextmanager
def _no_questions() -> Iterator[None]:
    """W&B asks at a terminal who one is, which would hold up a run that nobody watches: here it fails."""
    terminal = sys.stdin
    with open(os.devnull) as nobody:
        sys.stdin = nobody
        try:
            yield
        finally:
            sys.stdin = terminal
