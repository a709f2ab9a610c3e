"""Specs that ship with leapcore, run by name: ``leapcore run quickstart``."""

from __future__ import annotations

from importlib.resources import files

from leapcore.errors import UnknownNameError, did_you_mean


def recipe_names() -> list[str]:
    """The names of all recipes."""
    return sorted(entry.name[:-5] for entry in files(__name__).iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """A recipe as written, comments included.

    Raises:
        UnknownNameError: There is no such recipe.
    """
    if name not in recipe_names():
        raise UnknownNameError(f"there is no recipe '{name}'", did_you_mean(name, recipe_names()))
    return (files(__name__) / f"{name}.yaml").read_text()


def recipe_summary(name: str) -> str:
    """A recipe's first comment line, its summary."""
    return recipe_text(name).splitlines()[0].lstrip("# ")
