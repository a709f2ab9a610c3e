"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from leapcore.errors import Interrupted, LeapcoreError

if TYPE_CHECKING:
    from rich.console import Console

    from leapcore.spec import Spec

app = typer.Typer(
    help="Distill vision backbones with a curriculum over the teacher's layers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipes = typer.Typer(help="Specs that ship with leapcore.", invoke_without_command=True)
app.add_typer(recipes, name="recipes")

evaluations = typer.Typer(help="Evaluate the frozen features of any model.", no_args_is_help=True)
app.add_typer(evaluations, name="eval")

Model = Annotated[
    str,
    typer.Argument(
        help="A folder such as runs/x/student, a timm name, or a teacher of the spec by its name."
    ),
]
SpecOption = Annotated[
    str, typer.Option("--spec", metavar="SPEC|RECIPE", help="Its data section says which images, how large.")
]
Family = Annotated[str, typer.Option("--backbone", help="The model's backbone family.")]
Source = Annotated[str, typer.Argument(metavar="SPEC|RECIPE", help="A YAML file, or a recipe's name.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the spec, e.g. train.seed=1."),
]


_ACCURACIES = {
    "knn": "kNN accuracy",
    "linear": "linear probe accuracy",
    "linear_best": "best epoch",
    "linear_top5": "top-5 accuracy",
}
_RETRIEVAL = {"mAP": "map", "mP@1": "mp1", "mP@5": "mp5", "mP@10": "mp10"}


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
    console, spec = _console(), _load(source, set_)
    try:
        with console.status("loading"):
            from leapcore.engine.run import run as run_spec
        from leapcore.listeners.console import ConsoleListener

        run_spec(spec, output=output, overwrite=overwrite, listeners=[ConsoleListener(console)])
    except KeyboardInterrupt:
        raise Interrupted("stopped before the first step; nothing was left behind") from None


@app.command()
def validate(source: Source, set_: Overrides = None) -> None:
    """Check a spec without running it: keys, values, plugins' names, and that its files exist."""
    spec = _load(source, set_)
    _console().print(f"{source}: ok, results would go to runs/{spec.name}", highlight=False)


@recipes.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_recipes()


@recipes.command("list")
def list_recipes() -> None:
    """Name all recipes."""
    from leapcore.recipes import recipe_names, recipe_summary

    for name in recipe_names():
        typer.echo(f"{name}: {recipe_summary(name)}")


@recipes.command("show")
def show_recipe(name: str) -> None:
    """Print a recipe."""
    from leapcore.recipes import recipe_text

    typer.echo(recipe_text(name), nl=False)


@recipes.command("copy")
def copy_recipe(
    name: str,
    target: Annotated[Optional[Path], typer.Argument(help="<name>.yaml here if not given.")] = None,  # noqa: UP045
) -> None:
    """Copy a recipe to a file of your own, to start a spec from."""
    from leapcore.errors import OutputError
    from leapcore.recipes import recipe_text

    text, path = recipe_text(name), target or Path(f"{name}.yaml")
    if path.exists():
        raise OutputError(f"'{path}' exists already", "Name another file.")
    try:
        path.write_text(text)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error}", "Name another file.") from error
    typer.echo(f"copied to {path}; run it with: leapcore run {path}")


@evaluations.command("knn")
def evaluate_knn(model: Model, spec: SpecOption, set_: Overrides = None, backbone: Family = "vit") -> None:
    """k-nearest-neighbour accuracy: 20 neighbours by cosine, temperature 0.07."""
    _evaluate(model, spec, set_, backbone, knn=True)


@evaluations.command("linear")
def evaluate_linear(model: Model, spec: SpecOption, set_: Overrides = None, backbone: Family = "vit") -> None:
    """Linear probe: SGD on frozen features for 100 epochs, as in the paper."""
    _evaluate(model, spec, set_, backbone, linear=True)


@evaluations.command("retrieval")
def evaluate_retrieval(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Holds gnd_<its name>.pkl and jpg/, as published.")],
    spec: SpecOption,
    set_: Overrides = None,
    backbone: Family = "vit",
) -> None:
    """Instance retrieval on revisited Oxford or Paris: mAP and mP@1, 5, 10."""
    loaded = _load(spec, set_)
    from leapcore.engine.evaluate import retrieve

    scores = retrieve(model, folder, loaded, family=backbone)
    for protocol in ("easy", "medium", "hard"):
        figures = [f"{name} {scores[f'{protocol}_{key}']:.2%}" for name, key in _RETRIEVAL.items()]
        typer.echo(f"{protocol}: {', '.join(figures)}")


@app.command()
def plugins() -> None:
    """Show the installed plugins, what they register, and why a broken one does not work."""
    from rich.markup import escape
    from rich.table import Table

    from leapcore.plugins import installed_plugins

    table = Table("plugin", "distribution", "registers", "state")
    for info in installed_plugins().infos:
        registers = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in info.registers.items())
        table.add_row(info.name, info.distribution, registers, escape(info.cause) or "ok")
    _console().print(table)


def main() -> NoReturn:
    """Run a command; a user's mistake ends with its cause and remedy instead of a traceback."""
    try:
        app()
    except LeapcoreError as error:
        _fail(error)
    sys.exit(0)


def _evaluate(model: str, source: str, set_: list[str] | None, family: str, **wanted: bool) -> None:
    spec = _load(source, set_)
    from leapcore.engine.evaluate import evaluate_model

    found = evaluate_model(model, spec, family=family, **wanted)
    for name, label in _ACCURACIES.items():
        if name in found:
            typer.echo(f"{label}: {found[name]:.2%}")
    if "linear" in found and "linear_top5" not in found:
        typer.echo("top-5 accuracy is left out: with five classes or fewer every answer is among them")


def _load(source: str, overrides: list[str] | None) -> Spec:
    from leapcore.spec_file import load_spec

    return load_spec(source, overrides or ())


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


def _fail(error: LeapcoreError) -> NoReturn:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("Error:", style="bold red", end=" ")
    console.print(error.cause, markup=False)
    if error.remedy:
        console.print(error.remedy, markup=False)
    sys.exit(error.exit_code)
