"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from leapcore._version import __version__
from leapcore.cli import (
    backbones,
    bench,
    compare,
    doctor,
    embed,
    evaluate,
    export,
    plan,
    plugins,
    recipes,
    report,
    schema,
    status,
)
from leapcore.cli.common import Overrides, Source, console, fail, load, plain
from leapcore.cli.noise import library_noise
from leapcore.cli.running import run_in_terminal
from leapcore.distributed.place import place
from leapcore.errors import Interrupted, LeapcoreError, OutputError, RanksError, Terminated
from leapcore.train.signals import Sigterm, raise_at_sigterm

if TYPE_CHECKING:
    from leapcore.spec import Spec

app = typer.Typer(
    help="Distill vision backbones with a curriculum over the teacher's layers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"leapcore {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What goes before every command."""


@app.command()
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
        bool, typer.Option("--verbose", "-v", help="Print all figures, and what libraries have to say.")
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
    if place().size == 1:  # a launcher ends the others with this signal, which is nothing to tell
        raise_at_sigterm()
    try:
        run_in_terminal(source, set_ or [], output, quiet, verbose, overwrite=overwrite, resume=resume)
    except KeyboardInterrupt as stop:
        kind = Terminated if isinstance(stop, Sigterm) else Interrupted
        raise kind("stopped before the first step; nothing was left behind") from None


def _start(processes: int, spec: Spec, quiet: bool) -> None:
    """Start this command in so many processes; what does not suit them is told once, not by each."""
    from leapcore.distributed.launch import launch
    from leapcore.spec.engine import images_at_once

    images_at_once(spec.train.batch_size, spec.engine, processes)
    if not quiet:
        console().print(f"starting {processes} processes", highlight=False)
    launch(sys.argv[1:], processes)


@app.command()
def validate(source: Source, set_: Overrides = None) -> None:
    """Check a spec without building models or loading images.

    That is: keys, values, plugins' names, and that its files and folders of images are there.
    """
    from leapcore.spec.file import warn_of_doubts

    with library_noise(shown=False):
        spec = load(source, set_)
        warn_of_doubts(spec)
    told = f"{source}: ok, results would go to runs/{spec.name}"
    plain(console(), f"{told} (models are checked by: leapcore plan {source})")


# In the order in which help lists them.
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("status")(status.status)
app.command("tail")(status.tail)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("export")(export.export)
app.command("embed")(embed.embed)
app.command("doctor")(doctor.doctor)
app.command("backbones")(backbones.backbones)
app.command("schema")(schema.schema)
app.add_typer(evaluate.app, name="eval")
app.add_typer(recipes.app, name="recipes")
app.add_typer(plugins.app, name="plugins")


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
