"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from leapcore.cli import completion

if TYPE_CHECKING:
    from leapcore.spec import Spec

Source = Annotated[
    str,
    typer.Argument(
        metavar="SPEC|RECIPE",
        help="A YAML file, or a recipe's name.",
        autocompletion=completion.sources,
    ),
]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, e.g. train.seed=1.",
        autocompletion=completion.assignments,
    ),
]
Options = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--option", metavar="KEY=VALUE", help="An argument of the model, e.g. depth=6."),
]


def parsed_options(options: list[str] | None) -> dict[str, Any]:
    """``["depth=6"]`` as ``{"depth": 6}``: values are YAML."""
    from leapcore.spec.text import assignment

    return dict(assignment("--option", option, "depth=6") for option in options or ())


def load(source: str, overrides: list[str] | None) -> Spec:
    """Read a spec or recipe."""
    from leapcore.spec.file import load_spec

    return load_spec(source, overrides or ())
