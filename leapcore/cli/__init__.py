"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

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
    run,
    schema,
    status,
    validate,
)
from leapcore.cli.output import fail
from leapcore.errors import LeapcoreError

app = typer.Typer(
    help="Distill vision backbones with a curriculum over the teacher's layers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"leapcore {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


for command in (  # in the order in which help lists them
    run.run,
    validate.validate,
    plan.plan,
    bench.bench,
    status.status,
    status.tail,
    report.report,
    compare.compare,
    export.export,
    embed.embed,
    doctor.doctor,
    backbones.backbones,
    schema.schema,
):
    app.command()(command)
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
    """The arguments without those of DeepSpeed's launcher, and with ``--resume`` alone spelled out.

    What that launcher adds is in the environment, too.
    """
    kept = [argument for argument in arguments if not argument.startswith(("--local_rank=", "--local-rank="))]
    for index, argument in enumerate(kept):
        following = kept[index + 1] if index + 1 < len(kept) else ""
        named = following in ("auto", "latest") or following.startswith("step-")
        if argument == "--resume" and not named:
            kept[index] = "--resume=latest"
    return kept
