"""The listeners that a spec names: built by their plugins, and kept from ending the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from leapcore.errors import PluginError
from leapcore.plugins.loader import check_hooks, hooks_of, installed_plugins
from leapcore.spec import Spec
from leapcore.spec.options import checked_options

logger = logging.getLogger(__name__)


def chosen_listeners(spec: Spec) -> list[Guarded]:
    """The spec's listeners, in its order.

    Raises:
        PluginError: A plugin's listener cannot be built; it is named.
    """
    return [Guarded(name, _built(name, options)) for name, options in spec.listeners.items()]


def _built(name: str, options: dict[str, Any]) -> Any:
    plugins = installed_plugins()
    factory = plugins.get("listeners", name)
    try:
        listener = factory(**checked_options(factory, options))
        check_hooks(listener)
    # A stranger's code can fail in any way.
    except Exception as error:
        cause = error.cause if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        raise PluginError(
            f"the listener '{name}' of plugin {plugins.owner('listeners', name)}: {cause}",
            getattr(error, "remedy", "") or "Mend its factory: (*, options) -> an object with hooks.",
        ) from error
    return listener


class Guarded:
    """A listener whose failure ends no run: it is warned of once, and the listener is left out from there on.

    Args:
        name: How the spec calls it.
        listener: An object with hooks.
    """

    def __init__(self, name: str, listener: Any) -> None:
        self._name = name
        self._out = False
        for hook in hooks_of(listener):
            setattr(self, hook, self._guarded(getattr(listener, hook)))
        self._close = getattr(listener, "close", None)

    def close(self) -> None:
        """Let it put away what it holds, also after it failed."""
        if self._close is not None:
            self._attempt(self._close)

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        @wraps(hook)  # which keeps the hook's mark and its arguments
        def guarded(*event: Any) -> None:
            if not self._out:
                self._attempt(hook, *event)

        return guarded

    def _attempt(self, act: Callable[..., None], *event: Any) -> None:
        try:
            act(*event)
        # Its network, its login, its disk: none is worth the run.
        except Exception as error:
            if not self._out:
                reason = " ".join(str(error).split())[:300]
                logger.warning(
                    "the listener '%s' failed and is left out from here on; the run goes on. %s: %s",
                    self._name,
                    type(error).__name__,
                    reason,
                )
            self._out = True
