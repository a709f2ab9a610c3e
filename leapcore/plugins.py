"""Finding plugins, one by one, so that a broken one is named and takes nothing else down."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from leapcore import builtins, hookspecs
from leapcore._version import __version__
from leapcore.errors import UnknownNameError
from leapcore.registry import Factory, Registry

_KINDS = {"backbones": "backbone", "schedulers": "scheduler", "losses": "loss", "datasets": "data source"}


@dataclass
class PluginInfo:
    """A plugin as ``leapcore plugins`` shows it.

    Attributes:
        name: The entry point's name.
        distribution: The package that installed it, with its version.
        cause: Why it does not work, empty if it does.
        registers: The names it adds, by kind: ``{"backbones": ["vit"], …}``.
    """

    name: str
    distribution: str
    cause: str = ""
    registers: dict[str, list[str]] = field(default_factory=dict)


class Plugins:
    """All installed plugins and what they register."""

    def __init__(self, found: list[EntryPoint]) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: list[PluginInfo] = []
        self.registries = {hook: Registry(kind) for hook, kind in _KINDS.items()}
        self._add("builtin", f"leapcore {__version__}", lambda: builtins)
        for entry_point in found:
            owner = entry_point.dist
            origin = f"{owner.name} {owner.version}" if owner else "an unknown distribution"
            self._add(entry_point.name, origin, entry_point.load)

    @property
    def broken(self) -> list[PluginInfo]:
        """The plugins that cannot be used."""
        return [info for info in self.infos if info.cause]

    def require(self, kind: str, name: str) -> None:
        """Check that a working plugin registers the name, without importing what is behind it.

        Args:
            kind: ``backbones``, ``schedulers``, ``losses`` or ``datasets``.
            name: As a spec gives it.

        Raises:
            UnknownNameError: None does; plugins that are broken and might have are named.
        """
        try:
            self.registries[kind].require(name)
        except UnknownNameError as error:
            notes = [f"Plugin '{p.name}' ({p.distribution}) is broken: {p.cause}." for p in self.broken]
            raise UnknownNameError(error.cause, " ".join([error.remedy, *notes])) from error

    def get(self, kind: str, name: str) -> Factory:
        """The factory behind a name; raises as :meth:`require` does."""
        self.require(kind, name)
        return self.registries[kind].get(name)

    def owner(self, kind: str, name: str) -> str:
        """The plugin behind a name, with its distribution; raises as :meth:`require` does."""
        self.require(kind, name)
        return self.registries[kind].owner_of(name)

    def _add(self, name: str, distribution: str, load: Any) -> None:
        info = PluginInfo(name, distribution)
        self.infos.append(info)
        owner = f"{name} ({distribution})"  # two distributions may call their plugins alike
        if self.manager.has_plugin(owner):
            info.cause = "it is listed twice; the first is used"
            return
        try:
            plugin = load()
            self.manager.register(plugin, name=owner)
            self.manager.check_pending()  # a misspelt hook would be silently ignored
            self._let_register(plugin, owner)
        # Whatever a stranger's module raises at import belongs to it, and to nobody else.
        except Exception as error:
            info.cause = f"{type(error).__name__}: {error}".splitlines()[0]
            self._remove(owner)
        info.registers = {kind: names for kind, r in self.registries.items() if (names := r.names(owner))}

    def _let_register(self, plugin: Any, owner: str) -> None:
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        for kind, registry in self.registries.items():
            registry.owner = owner
            call = self.manager.subset_hook_caller(f"leapcore_register_{kind}", remove_plugins=others)
            call(registry=registry)

    def _remove(self, owner: str) -> None:
        if self.manager.has_plugin(owner):
            self.manager.unregister(name=owner)
        for registry in self.registries.values():
            registry.forget(owner)


@cache
def installed_plugins() -> Plugins:
    """The plugins of this Python environment, loaded once."""
    return Plugins(sorted(entry_points(group=hookspecs.PROJECT), key=lambda point: point.name))
