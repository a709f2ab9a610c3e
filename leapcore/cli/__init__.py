"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from leapcore.cli import backbones, evaluate, plugins, recipes
from leapcore.cli.common import Overrides, Source, console, fail, load
from leapcore.errors import Interrupted, LeapcoreError

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
app.command("backbones")(backbones.backbones)


@app.command()
def run(
    source: Source,
    set_: Overrides = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder for the results; runs/<name> if not given."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run in that folder.")] = False,
) -> None:
    """Distill a student as the spec says."""
    terminal, spec = console(), load(source, set_)
    try:
        with terminal.status("loading"):
            from leapcore.engine.run import run as run_spec
        from leapcore.listeners.console import ConsoleListener

        run_spec(spec, output=output, overwrite=overwrite, listeners=[ConsoleListener(terminal)])
    except KeyboardInterrupt:
        raise Interrupted("stopped before the first step; nothing was left behind") from None


@app.command()
def validate(source: Source, set_: Overrides = None) -> None:
    """Check a spec without running it: keys, values, plugins' names, and that its files exist."""
    spec = load(source, set_)
    console().print(f"{source}: ok, results would go to runs/{spec.name}", highlight=False)


def main() -> NoReturn:
    """Run a command; a user's mistake ends with its cause and remedy instead of a traceback."""
    try:
        app()
    except LeapcoreError as error:
        fail(error)
    sys.exit(0)
