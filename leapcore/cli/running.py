"""``leapcore run`` in a terminal: what is shown, from the first line on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapcore.cli.common import console, load, plain
from leapcore.cli.noise import library_noise
from leapcore.distributed.place import place

if TYPE_CHECKING:
    from leapcore.listeners.console import ConsoleListener
    from leapcore.plugins.events import RunReport
    from leapcore.spec import Spec


def run_in_terminal(
    source: str, overrides: Sequence[str], output: Path | None, quiet: bool, verbose: bool, **how: Any
) -> None:
    """Run a spec and show it, without what libraries say unless that is wanted.

    Args:
        source: A spec's file or a recipe.
        overrides: ``"section.key=value"`` each.
        output: The folder for results.
        quiet: Show errors and the closing line only.
        verbose: Show every figure too, and libraries' messages.
        how: Passed to :func:`leapcore.run`.
    """
    with library_noise(shown=verbose, ours=logging.ERROR if quiet else logging.WARNING):
        if not quiet:  # at once; reading the spec takes half a second
            console().print(f"leapcore run {source}", style="bold", markup=False, highlight=False)
        spec = load(source, list(overrides))
        folder = output or Path("runs") / spec.name
        _check_folder(folder, **how)
        if quiet:
            _run_quietly(spec, folder, **how)
        else:
            _run_shown(spec, folder, overrides, verbose, **how)


def _check_folder(folder: Path, **how: Any) -> None:
    """Refuse a folder that cannot take this run before the imports, which take longest."""
    from leapcore.runs.folder import RunFolder

    if place().size == 1:  # several processes must fail together
        RunFolder(folder, **how).close()


def _run_quietly(spec: Spec, folder: Path, **how: Any) -> None:
    from leapcore.listeners.closing import closing_line
    from leapcore.listeners.console import QuietListener

    screen = QuietListener(console())
    done = _run(spec, folder, [screen], **how)
    if not screen.saw_run:  # it was finished before
        plain(console(), closing_line(done))


def _run_shown(spec: Spec, folder: Path, overrides: Sequence[str], verbose: bool, **how: Any) -> None:
    from leapcore.listeners.console import ConsoleListener, EveryFigure

    terminal = console()
    with closing(ConsoleListener(terminal)) as screen:
        screen.show_arguments(overrides, spec, folder)
        _import_libraries(screen)
        done = _run(spec, folder, [screen, *([EveryFigure(terminal)] if verbose else [])], **how)
    if not screen.saw_run and place().rank == 0:
        terminal.print(f"{done.folder}: this run is finished, nothing was left to do", markup=False)


def _import_libraries(screen: ConsoleListener) -> None:
    """What takes longest comes first, each with a word of its own."""
    from leapcore.compat import import_deepspeed, import_timm

    screen.leapcore_stage("importing torch")
    import torch  # noqa: F401

    screen.leapcore_stage("importing timm")
    import_timm()
    screen.leapcore_stage("importing DeepSpeed")
    import_deepspeed()
    screen.leapcore_stage("opening the output folder")


def _run(spec: Spec, folder: Path, listeners: list[Any], **how: Any) -> RunReport:
    from leapcore.train.run import run

    return run(spec, output=folder, listeners=listeners, **how)
