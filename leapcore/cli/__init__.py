"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from leapcore.cli import backbones, bench, compare, embed, evaluate, export, plugins, recipes, report
from leapcore.cli.common import Overrides, Source, console, fail, load
from leapcore.engine.signals import Sigterm, raise_at_sigterm
from leapcore.errors import Interrupted, LeapcoreError, OutputError, RanksError, Terminated
from leapcore.processes import place

app = typer.Typer(
    help="Distill vision backbones with a curriculum over the teacher's layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(recipes.app, name="recipes")
app.add_typer(evaluate.app, name="eval")
app.add_typer(plugins.app, name="plugins")
app.command("bench")(bench.bench)
app.command("backbones")(backbones.backbones)
app.command("export")(export.export)
app.command("embed")(embed.embed)
app.command("compare")(compare.compare)
app.command("report")(report.report)


@app.command()
def run(
    source: Source,
    set_: Overrides = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder for the results; runs/<name> if not given."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in that folder.")] = False,
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
) -> None:
    """Distill a student as the spec says."""
    terminal, spec = console(), load(source, set_)
    if overwrite and resume:
        raise OutputError("--overwrite and --resume contradict each other", "Give one of them.")
    if processes > 1 and place().size not in (1, processes):
        raise RanksError(
            f"--processes {processes}, but a launcher started {place().size}", "Leave --processes out."
        )
    if processes > 1 and place().size == 1:
        from leapcore.launch import launch

        launch(sys.argv[1:], processes)
    if place().size == 1:  # a launcher ends the others with this signal, which is nothing to tell
        raise_at_sigterm()
    try:
        with terminal.status("loading"):
            from leapcore.engine.run import run as run_spec
        from leapcore.listeners.console import ConsoleListener

        listeners = [ConsoleListener(terminal)]
        done = run_spec(spec, output=output, overwrite=overwrite, resume=resume, listeners=listeners)
    except KeyboardInterrupt as stop:
        kind = Terminated if isinstance(stop, Sigterm) else Interrupted
        raise kind("stopped before the first step; nothing was left behind") from None
    if resume and not listeners[0].told and place().rank == 0:
        terminal.print(f"{done.folder}: this run is finished, nothing was left to do", markup=False)


@app.command()
def validate(source: Source, set_: Overrides = None) -> None:
    """Check a spec without running it: keys, values, plugins' names, and that its files exist."""
    spec = load(source, set_)
    console().print(f"{source}: ok, results would go to runs/{spec.name}", highlight=False)


def main() -> NoReturn:
    """Run a command; a user's mistake ends with its cause and remedy instead of a traceback."""
    sys.argv = _plain_arguments(sys.argv)
    try:
        app()
    except LeapcoreError as error:
        fail(error)
    sys.exit(0)


def _plain_arguments(arguments: list[str]) -> list[str]:
    """Without what DeepSpeed's launcher adds and the environment says too; ``--resume`` alone spelled out."""
    kept = [argument for argument in arguments if not argument.startswith(("--local_rank=", "--local-rank="))]
    for index, argument in enumerate(kept):
        following = kept[index + 1] if index + 1 < len(kept) else ""
        named = following in ("auto", "latest") or following.startswith("step-")
        if argument == "--resume" and not named:
            kept[index] = "--resume=latest"
    return kept
