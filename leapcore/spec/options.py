"""A factory's options: its keyword-only arguments, checked as the spec's own keys are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, create_model

from leapcore.errors import PluginError
from leapcore.spec.section import Section

# "    name: What it is." in a Google-style docstring, with the lines that go on further to the right.
_ARGUMENT = re.compile(r"^ {4}(\w+)[^:\n]*: (.+(?:\n {5,}.+)*)", re.MULTILINE)


def options_model(factory: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model with one field per keyword-only argument: its annotation, default and description.

    The description comes from the docstring's ``Args``. A class whose constructor takes ``**options`` has
    its parent's too.

    Raises:
        PluginError: An annotation names something that is not there at run time.
    """
    fields: dict[str, Any] = {}
    for owner, function in _signatures(factory):
        hints, descriptions = _type_hints(function), argument_descriptions(owner)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                default = ... if parameter.default is parameter.empty else parameter.default
                field = Field(default, description=descriptions.get(name))
                fields.setdefault(name, (hints.get(name, Any), field))
    return create_model("Options", __base__=Section, **fields)


def argument_descriptions(documented: Callable[..., Any]) -> dict[str, str]:
    """Each argument's description in a Google-style docstring, in one line each."""
    after = inspect.cleandoc(documented.__doc__ or "").partition("\nArgs:\n")[2]
    block = re.split(r"\n(?=\S)", after)[0]
    return {name: " ".join(text.replace("``", "`").split()) for name, text in _ARGUMENT.findall(block)}


def checked_options(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options converted to the types that the factory asks for, defaults filled in.

    Raises:
        pydantic.ValidationError: A key is unknown or a value is wrong.
    """
    model = options_model(factory)(**options)
    return {name: getattr(model, name) for name in type(model).model_fields}


def plain_options(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The same, as YAML and JSON can hold it: durations as text."""
    return options_model(factory)(**options).model_dump(mode="json")


def _signatures(factory: Callable[..., Any]) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
    """Pairs of a documented object and the function with its options.

    A function is both. Of a class, each parent whose constructor the options reach comes with it.
    """
    if not inspect.isclass(factory):
        return [(factory, factory)]
    constructors: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
    for parent in factory.__mro__:
        constructor = vars(parent).get("__init__")
        if constructor is not None and parent is not object:
            constructors.append((parent, constructor))
            kinds = [p.kind for p in inspect.signature(constructor).parameters.values()]
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return constructors


def _type_hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"the annotations of {factory.__module__}.{factory.__qualname__} cannot be read: {error}",
            "Import the names in its signature at run time, not under TYPE_CHECKING.",
        ) from error
