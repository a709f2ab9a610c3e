"""``leapcore recipes``: the specs that ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Optional

import typer

from leapcore.cli import completion
from leapcore.cli.output import console

Recipe = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="Its name, as listed.", autocompletion=completion.recipes),
]

app = typer.Typer(help="Specs that ship with leapcore.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_recipes()


@app.command("list")
def list_recipes() -> None:
    """Name all recipes."""
    from rich.table import Table

    from leapcore.recipes import recipe_names, recipe_summary

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for name in recipe_names():
        table.add_row(name, recipe_summary(name))
    console().print(table, highlight=False)


@app.command("show")
def show_recipe(name: Recipe) -> None:
    """Print a recipe."""
    from leapcore.recipes import recipe_text

    typer.echo(recipe_text(name), nl=False)


@app.command("copy")
def copy_recipe(
    name: Recipe,
    target: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="FILE", help="The copy, RECIPE.yaml if not given; its run is named after it."),
    ] = None,
) -> None:
    """Copy a recipe to a file of your own, to start from.

    Beside it comes the schema by which an editor completes and checks its keys.
    """
    from leapcore.cli.schema import BESIDE, schema_text, write
    from leapcore.errors import OutputError
    from leapcore.recipes import recipe_text

    path = target or Path(f"{name}.yaml")
    text = _named(recipe_text(name), name, path.stem)
    if path.exists():
        raise OutputError(f"'{path}' exists already", "Name another file.")
    # Editors see the path from the YAML file, wherever they were started.
    write(path, f"# yaml-language-server: $schema={BESIDE}\n{text}")
    write(path.parent / BESIDE, schema_text())
    typer.echo(f"copied to {path}, with {BESIDE} for your editor; run it with: leapcore run {path}")


def _named(text: str, recipe: str, name: str) -> str:
    """A recipe under another name, so that it does not write where the recipe's own run lies."""
    from ruamel.yaml import YAML

    from leapcore.spec.section import RUN_NAME

    usable = re.fullmatch(RUN_NAME, name) and YAML(typ="safe").load(name) == name  # 123 and true are no text
    return text.replace(f"\nname: {recipe}\n", f"\nname: {name}\n") if usable else text
