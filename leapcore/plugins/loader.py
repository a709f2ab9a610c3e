"""Loading plugins one by one, so that a broken one is named and takes nothing else down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy
from packaging.requirements import Requirement

from leapcore._version import __version__
from leapcore.errors import LeapcoreError, PluginError, UnknownNameError, did_you_mean
from leapcore.plugins import builtins, hooks
from leapcore.plugins.registry import Factory, Registry

HOOK = f"{hooks.PROJECT}_"  # what every hook begins with
_KINDS = {
    "backbones": "backbone",
    "schedulers": "scheduler",
    "losses": "loss",
    "datasets": "data source",
    "listeners": "listener",
}


@dataclass
class PluginInfo:
    """A plugin as ``leapcore plugins`` shows it.

    Attributes:
        name: The entry point's name.
        distribution: The package that installed it, with its version.
        cause: Why it does not work, empty if it does.
        remedy: What to change then.
        registers: The names it adds, by kind: ``{"backbones": ["vit"], …}``.
    """

    name: str
    distribution: str
    cause: str = ""
    remedy: str = ""
    registers: dict[str, list[str]] = field(default_factory=dict)


class Plugins:
    """All installed plugins and what they register."""

    def __init__(self, points: list[EntryPoint]) -> None:
        self.manager = pluggy.PluginManager(hooks.PROJECT)
        self.manager.add_hookspecs(hooks)
        self.infos: list[PluginInfo] = []
        self.registries = {hook: Registry(kind) for hook, kind in _KINDS.items()}
        self._add("builtin", f"leapcore {__version__}", lambda: builtins)
        for point in points:
            dist = point.dist
            distribution = f"{dist.name} {dist.version}" if dist else "an unknown distribution"
            self._add(point.name, distribution, partial(_load, point))

    @property
    def broken(self) -> list[PluginInfo]:
        """The plugins that cannot be used."""
        return [info for info in self.infos if info.cause]

    def require(self, kind: str, name: str) -> None:
        """Check that a working plugin registers the name, without importing what is behind it.

        Args:
            kind: ``backbones``, ``schedulers``, ``losses``, ``datasets`` or ``listeners``.
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

    def diagnosis(self, info: PluginInfo) -> tuple[str, str]:
        """Why a plugin cannot be used and the remedy, the modules behind its names included; else empty."""
        try:
            for kind, names in info.registers.items():
                for name in names:
                    self.get(kind, name)
        except PluginError as error:
            return error.cause, error.remedy
        return info.cause, info.remedy

    def _add(self, name: str, distribution: str, load: Any) -> None:
        info = PluginInfo(name, distribution)
        self.infos.append(info)
        owner = f"{name} ({distribution})"  # two distributions may call their plugins alike
        if self.manager.has_plugin(owner):
            info.cause = "it is listed twice; the first is used"
            return
        try:
            plugin = load()
            check_hooks(plugin)
            self.manager.register(plugin, name=owner)
            self._call_register_hooks(plugin, owner)
        except LeapcoreError as error:
            info.cause, info.remedy = error.cause, error.remedy
            self._remove(owner)
        # Somebody else's module can raise anything at import.
        except (Exception, SystemExit) as error:
            info.cause = f"{type(error).__name__}: {error}".splitlines()[0]
            info.remedy = f"Mend, update or uninstall {distribution}."
            self._remove(owner)
        info.registers = {kind: names for kind, r in self.registries.items() if (names := r.names(owner))}

    def _call_register_hooks(self, plugin: Any, owner: str) -> None:
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


def _load(entry_point: EntryPoint) -> Any:
    """Import a plugin, if it is meant for this leapcore."""
    distribution = entry_point.dist
    if distribution is None:
        return entry_point.load()
    for text in distribution.requires or ():
        needed = Requirement(text)
        if needed.name == "leapcore" and not needed.specifier.contains(__version__, prereleases=True):
            raise PluginError(
                f"it is made for leapcore {needed.specifier}, and this is leapcore {__version__}",
                f"Update {distribution.name}, or install 'leapcore{needed.specifier}'.",
            )
    return entry_point.load()


def hooks_of(plugin: Any) -> list[str]:
    """Names of the hooks that a plugin or listener has, marked or not."""
    names = (name for name in dir(plugin) if name.startswith(HOOK) or _is_marked(plugin, name))
    return [name for name in names if inspect.isroutine(getattr(plugin, name))]


def check_hooks(plugin: Any) -> None:
    """Check the hooks for mistakes that pluggy ignores in silence, or reports without the plugin's name.

    Raises:
        PluginError: A hook is misspelt, not marked, or has an argument that is not passed to it.
    """
    known = [name for name in vars(hooks) if name.startswith(HOOK)]
    for name in hooks_of(plugin):
        if name not in known:
            raise PluginError(
                f"it has a hook '{name}', which leapcore does not know", did_you_mean(name, known)
            )
        if not _is_marked(plugin, name):
            raise PluginError(f"its hook '{name}' is not marked as one", "Put @leapcore.hookimpl above it.")
        _check_arguments(name, getattr(plugin, name))


def _is_marked(plugin: Any, name: str) -> bool:
    return getattr(getattr(plugin, name, None), f"{hooks.PROJECT}_impl", None) is not None


def _check_arguments(name: str, hook: Callable[..., Any]) -> None:
    known = inspect.signature(getattr(hooks, name)).parameters
    for argument in inspect.signature(hook).parameters:
        if argument not in known:
            raise PluginError(
                f"its hook '{name}' asks for an argument '{argument}', which that hook does not hand out",
                f"It hands out: {', '.join(known)}.",
            )


@cache
def installed_plugins() -> Plugins:
    """The plugins of this Python environment, loaded once."""
    return Plugins(sorted(entry_points(group=hooks.PROJECT), key=lambda point: point.name))
