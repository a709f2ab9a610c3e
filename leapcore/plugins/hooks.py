"""The hooks that a plugin can implement: what it registers, and the events of a run.

A plugin is any module named by an entry point of the group ``leapcore``:

    >>> from leapcore import hookimpl
    >>> @hookimpl
    ... def leapcore_register_backbones(registry):
    ...     registry.register("mynet", "my_package.provider:MyProvider.build")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from leapcore.plugins.events import CkaMap, RunReport, RunStart, TargetChange
    from leapcore.plugins.registry import Registry

PROJECT = "leapcore"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def leapcore_register_backbones(registry: Registry) -> None:
    """Register factories ``build(*, model, weights, image_size, options) -> LayerFeatureProvider``.

    A factory may also have ``summary``, a line for ``leapcore backbones``; ``models()``, the names of its
    models; and ``samples``, tuples (model, image size, options) that ``leapcore plugins check`` builds. Where
    it is a class method, the class may have them.
    """


@hookspec
def leapcore_register_schedulers(registry: Registry) -> None:
    """Register factories ``(num_layers, *, ...) -> DifficultyScheduler``.

    The keyword arguments are the options that the spec's ``curriculum`` section takes; their annotations
    and defaults are checked and documented from there. A factory whose options have no defaults may have
    ``samples``, mappings of options that ``leapcore plugins check`` uses.
    """


@hookspec
def leapcore_register_losses(registry: Registry) -> None:
    """Register patch losses ``(projected, target) -> scalar``, both (B, N, C)."""


@hookspec
def leapcore_register_datasets(registry: Registry) -> None:
    """Register sources ``(data, name, seed) -> ImageSplits`` of (PIL image, label) pairs.

    ``data`` is the spec's data section; ``name`` is what follows the first ``/`` in its ``source``;
    ``seed`` is the run's, for sources that shuffle by themselves.
    """


@hookspec
def leapcore_register_listeners(registry: Registry) -> None:
    """Register factories ``(*, ...) -> listener``, an object with hooks for the events below.

    The keyword arguments are its options in a spec; they are checked as a scheduler's are. Events come in
    the first process alone. Where a listener fails, in ``leapcore_run_started`` or later, the run goes on
    without it; so whatever can fail belongs there and not into the factory. It may have ``close()``, called
    when the run is over however it ended, and its factory ``needs``: a module, and how to install it.
    """


@hookspec
def leapcore_stage(stage: str) -> None:
    """What the run does from now on, in a few words; nothing is sent for training itself."""


@hookspec
def leapcore_run_started(start: RunStart) -> None:
    """Everything is built and the first step is next, or the first one after a resume."""


@hookspec
def leapcore_metrics(step: int, metrics: dict[str, Any]) -> None:
    """Figures of the steps since the last call; ``step`` is the number of finished steps."""


@hookspec
def leapcore_target_changed(event: TargetChange) -> None:
    """The curriculum moved to another layer."""


@hookspec
def leapcore_cka_map(step: int, maps: list[CkaMap]) -> None:
    """The student's layers were compared with each teacher's (``evaluate.cka_map``) after so many steps."""


@hookspec
def leapcore_images_skipped(step: int, images: dict[str, str]) -> None:
    """Images that could not be read, by name with the reason; others took their place in the batch."""


@hookspec
def leapcore_run_finished(report: RunReport) -> None:
    """The run ended, finished or interrupted, and its results are written."""
