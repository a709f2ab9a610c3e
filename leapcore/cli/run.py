"""``leapcore run``: a run in this terminal, from the first line that is shown to the last."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from leapcore.cli.arguments import Overrides, Source, load
from leapcore.cli.noise import library_noise
from leapcore.cli.output import console, print_line
from leapcore.distributed.place import place
from leapcore.errors import Interrupted, OutputError, RanksError, Terminated
from leapcore.train.signals import Sigterm, raise_at_sigterm

if TYPE_CHECKING:
    from leapcore.listeners.console import ConsoleListener
    from leapcore.plugins.events import RunReport
    from leapcore.spec import Spec


def run(
    source: Source,
    set_: Overrides = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the results; runs/<name> if not given."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")
    ] = False,
    resume: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="[auto|CHECKPOINT]",
            help="Go on with the run in that folder, from its latest checkpoint or the one named; "
            "auto: or from the start if there is none.",
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Share the work among N processes on this machine.")
    ] = 1,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors and the closing line only.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print all figures, and messages of libraries.")
    ] = False,
) -> None:
    """Distill a student as the spec says."""
    if overwrite and resume:
        raise OutputError("--overwrite and --resume contradict each other", "Give one of them.")
    if quiet and verbose:
        raise OutputError("--quiet and --verbose contradict each other", "Give one of them.")
    if processes > 1 and place().size not in (1, processes):
        raise RanksError(
            f"--processes {processes}, but a launcher started {place().size}", "Leave --processes out."
        )
    if processes > 1 and place().size == 1:
        _start(processes, load(source, set_), quiet)
    if place().size == 1:  # a launcher ends the others with this signal, which needs no message
        raise_at_sigterm()
    try:
        _run_in_terminal(source, set_ or [], output, quiet, verbose, overwrite=overwrite, resume=resume)
    except KeyboardInterrupt as stop:
        kind = Terminated if isinstance(stop, Sigterm) else Interrupted
        raise kind("stopped before the first step; nothing was left behind") from None


def _start(processes: int, spec: Spec, quiet: bool) -> None:
    """Start this command in so many processes; what does not suit them is reported once, not by each."""
    from leapcore.distributed.launch import launch
    from leapcore.spec.engine import images_at_once

    images_at_once(spec.train.batch_size, spec.engine, processes)
    if not quiet:
        console().print(f"starting {processes} processes", highlight=False)
    launch(sys.argv[1:], processes)


def _run_in_terminal(
    source: str, overrides: Sequence[str], output: Path | None, quiet: bool, verbose: bool, **options: Any
) -> None:
    """Run a spec and show it, without messages of libraries unless ``verbose`` asks for them.

    Args:
        source: A spec's file or a recipe.
        overrides: ``"section.key=value"`` each.
        output: The folder for results.
        quiet: Show errors and the closing line only.
        verbose: Show every figure too, and libraries' messages.
        options: Passed to :func:`leapcore.run`.
    """
    with library_noise(shown=verbose, ours=logging.ERROR if quiet else logging.WARNING):
        if not quiet:  # at once; reading the spec takes half a second
            console().print(f"leapcore run {source}", style="bold", markup=False, highlight=False)
        spec = load(source, list(overrides))
        folder = output or Path("runs") / spec.name
        _check_folder(folder, **options)
        if quiet:
            _run_quietly(spec, folder, **options)
        else:
            _run_shown(spec, folder, overrides, verbose, **options)


def _check_folder(folder: Path, **options: Any) -> None:
    """Refuse a folder that cannot take this run before the imports, which take longest."""
    from leapcore.runs.folder import RunFolder

    if place().size == 1:  # several processes must fail together
        RunFolder(folder, **options).close()


def _run_quietly(spec: Spec, folder: Path, **options: Any) -> None:
    from leapcore.listeners.closing import closing_line
    from leapcore.listeners.console import QuietListener

    screen = QuietListener(console())
    report = _run(spec, folder, [screen], **options)
    if not screen.saw_run:  # it was finished before
        print_line(console(), closing_line(report))


def _run_shown(spec: Spec, folder: Path, overrides: Sequence[str], verbose: bool, **options: Any) -> None:
    from leapcore.listeners.console import ConsoleListener, EveryFigure

    terminal = console()
    with closing(ConsoleListener(terminal)) as screen:
        screen.show_arguments(overrides, spec, folder)
        _import_libraries(screen)
        report = _run(spec, folder, [screen, *([EveryFigure(terminal)] if verbose else [])], **options)
    if not screen.saw_run and place().rank == 0:
        terminal.print(f"{report.folder}: this run is finished, nothing was left to do", markup=False)


def _import_libraries(screen: ConsoleListener) -> None:
    """What takes longest comes first, each with a line of its own."""
    from leapcore.compat import import_deepspeed, import_timm

    screen.leapcore_stage("importing torch")
    import torch  # noqa: F401

    screen.leapcore_stage("importing timm")
    import_timm()
    screen.leapcore_stage("importing DeepSpeed")
    import_deepspeed()
    screen.leapcore_stage("opening the output folder")


def _run(spec: Spec, folder: Path, listeners: list[Any], **options: Any) -> RunReport:
    from leapcore.train.run import run

    return run(spec, output=folder, listeners=listeners, **options)
