"""Options that belong to a factory: its keyword-only arguments, checked as the spec's own keys are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, create_model

from leapcore.errors import PluginError
from leapcore.section import Section


def options_model(factory: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model with one field per keyword-only argument, its annotation and default.

    A class whose constructor takes ``**options`` has its parent's too.

    Raises:
        PluginError: An annotation names something that is not there at run time.
    """
    fields: dict[str, Any] = {}
    for function in _signatures(factory):
        hints = _type_hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                default = ... if parameter.default is parameter.empty else parameter.default
                fields.setdefault(name, (hints.get(name, Any), default))
    return create_model("Options", __base__=Section, **fields)


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


def _signatures(factory: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The factory itself; of a class, every constructor that its keyword arguments are handed on to."""
    if not inspect.isclass(factory):
        return [factory]
    found: list[Callable[..., Any]] = []
    for parent in factory.__mro__:
        constructor = vars(parent).get("__init__")
        if constructor is not None and parent is not object:
            found.append(constructor)
            kinds = [p.kind for p in inspect.signature(constructor).parameters.values()]
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return found


def _type_hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"the annotations of {factory.__module__}.{factory.__qualname__} cannot be read: {error}",
            "Import the names in its signature at run time, not under TYPE_CHECKING.",
        ) from error
