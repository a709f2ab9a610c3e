"""The events of a run, in the order in which they come, and how listeners are called.

    stage              building: images, models, costs, DeepSpeed
    run_started        everything is built; the first step is next, or the first one after a resume
    cka_map            before the first step, where the spec asks for maps
    stage              calibrating, before the first step of a curriculum that needs it
    target_changed     where the curriculum starts
      images_skipped     before a step, where images of its batch could not be read
      target_changed     after a step, or an epoch, that moved a target
      metrics            every ``train.log_every`` steps, and after the last one
      stage, metrics     evaluating, where the spec asks for kNN on the way
      cka_map            where it asks for maps on the way
    stage, cka_map, metrics    writing the student, and evaluating it
    run_finished       once, whatever ended the run after its first step

What the events carry is described in :mod:`leapcore.plugins.events`, and what listeners may do in
:mod:`leapcore.plugins.hooks`.
"""

from __future__ import annotations

import traceback
from typing import Any

import pluggy

from leapcore.errors import PluginError
from leapcore.plugins.events import CkaMap, RunReport, RunStart, TargetChange


class Events:
    """The events of a run that nobody listens to: in all processes but the first, and in a loop by itself."""

    def stage(self, stage: str) -> None:
        """What the run does from now on, in a few words."""
        self._call("stage", stage=stage)

    def run_started(self, start: RunStart) -> None:
        """Everything is built, and the first step is next."""
        self._call("run_started", start=start)

    def images_skipped(self, step: int, images: dict[str, str]) -> None:
        """Images of the next batch could not be read: their names, and why."""
        self._call("images_skipped", step=step, images=images)

    def target_changed(self, event: TargetChange) -> None:
        """A curriculum started, or moved to another layer."""
        self._call("target_changed", event=event)

    def metrics(self, step: int, metrics: dict[str, Any]) -> None:
        """Figures of the steps since the last call, or accuracies that were measured after this step."""
        self._call("metrics", step=step, metrics=metrics)

    def cka_map(self, step: int, maps: list[CkaMap]) -> None:
        """The student's layers were compared with each teacher's after so many steps."""
        self._call("cka_map", step=step, maps=maps)

    def run_finished(self, report: RunReport) -> None:
        """The run ended, and its results are written."""
        self._call("run_finished", report=report)

    def _call(self, _event: str, /, **facts: Any) -> None:
        """Nobody listens."""


class ListenerEvents(Events):
    """The events of a run, passed on to every listener and plugin that has a hook for them.

    Args:
        manager: Knows who listens.
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._hooks = manager.hook

    def _call(self, _event: str, /, **facts: Any) -> None:
        name = f"leapcore_{_event}"
        hook: pluggy.HookCaller = getattr(self._hooks, name)
        try:
            hook(**facts)
        # A stranger's listener can fail in any way; one that was handed to run() in Python is no stranger.
        except Exception as error:
            owner = _failed_in(hook, error)
            if not owner.endswith(")"):  # plugins are called "name (distribution)"
                raise
            raise PluginError(
                f"plugin {owner} failed in its hook '{name}': {type(error).__name__}: {error}",
                "Mend, update or uninstall it.",
            ) from error


def _failed_in(hook: pluggy.HookCaller, error: Exception) -> str:
    """Whose implementation of the hook the error passed through."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    owners = (impl.plugin_name for impl in hook.get_hookimpls() if _code(impl.function) in codes)
    return next(owners, "")


def _code(function: Any) -> Any:
    return getattr(function, "__code__", None)
