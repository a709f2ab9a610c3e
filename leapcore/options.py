"""Options that belong to a factory: its keyword-only arguments, checked as the spec's own keys are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, create_model

from leapcore.errors import PluginError
from leapcore.spec import Section


def options_model(factory: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model with one field per keyword-only argument, its annotation and default.

    Raises:
        PluginError: An annotation names something that is not there at run time.
    """
    hints = _type_hints(factory)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
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


def _type_hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    except NameError as error:
        raise PluginError(
            f"the annotations of {factory.__module__}.{factory.__qualname__} cannot be read: {error}",
            "Import the names in its signature at run time, not under TYPE_CHECKING.",
        ) from error
