"""Names that a spec can use, and the factories behind them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from leapcore.errors import PluginError, UnknownNameError, did_you_mean

Factory = Callable[..., Any]


class _Entry(NamedTuple):
    factory: Factory | str
    owner: str


class Registry:
    """Factories of one kind by name.

    Args:
        kind: What is registered, for messages: "backbone", "scheduler", …
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.owner = "leapcore"  # the plugin whose hook is being called
        self._entries: dict[str, _Entry] = {}

    def register(self, name: str, factory: Factory | str) -> None:
        """Make a factory known.

        Args:
            name: How specs name it.
            factory: A callable, or ``"module:attribute"``, imported when it is first needed.

        Raises:
            PluginError: The name is taken.
        """
        if name in self._entries:
            first = self._entries[name].owner
            raise PluginError(
                f"plugin {self.owner} registers the {self.kind} '{name}', which {first} did already",
                "Rename one of them, or uninstall one of the two.",
            )
        if not callable(factory) and not (isinstance(factory, str) and ":" in factory):
            raise PluginError(
                f"plugin {self.owner} registers {factory!r} as {self.kind} '{name}'",
                "Register a callable, or text such as 'package.module:function'.",
            )
        self._entries[name] = _Entry(factory, self.owner)

    def get(self, name: str) -> Factory:
        """The factory of that name.

        Raises:
            UnknownNameError: Nobody registered it.
            PluginError: It cannot be imported.
        """
        self.require(name)
        factory, owner = self._entries[name]
        return _imported(factory, owner) if isinstance(factory, str) else factory

    def require(self, name: str) -> None:
        """Check that a name is registered, without importing what is behind it.

        Raises:
            UnknownNameError: Nobody registered it.
        """
        if name not in self._entries:
            raise UnknownNameError(f"unknown {self.kind} '{name}'", did_you_mean(name, self._entries))

    def owner_of(self, name: str) -> str:
        """Who registered the name: plugin and distribution."""
        self.require(name)
        return self._entries[name].owner

    def names(self, owner: str | None = None) -> list[str]:
        """All names in order, or those that one plugin registered."""
        return sorted(name for name, entry in self._entries.items() if owner in (None, entry.owner))

    def forget(self, owner: str) -> None:
        """Drop what a plugin registered before it failed."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.owner != owner}


def _imported(path: str, owner: str) -> Factory:
    module, _, attributes = path.partition(":")
    try:
        target: Any = import_module(module)
        for attribute in attributes.split("."):
            target = getattr(target, attribute)
    # Somebody else's module can raise anything: a missing library is an OSError, an old Python a SyntaxError.
    except Exception as error:
        raise PluginError(
            f"plugin {owner} names the factory '{path}', which cannot be imported: "
            f"{type(error).__name__}: {error}",
            "Install what it needs, or update or uninstall that distribution.",
        ) from error
    factory: Factory = target
    return factory
