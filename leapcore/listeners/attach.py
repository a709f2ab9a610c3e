"""Which listeners a run has besides those that its spec names, and how long they are attached."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from leapcore.listeners.files import CkaMapLines, JsonLines, SkippedLog, StartFile
from leapcore.listeners.pages import ModelCard, ReportPage
from leapcore.plugins.dispatch import Events, ListenerEvents
from leapcore.plugins.loader import installed_plugins


def screen_listeners(progress: bool | None) -> list[Any]:
    """What shows a run in a terminal or a notebook.

    Args:
        progress: Whether to show it; if None, in a notebook only.
    """
    notebook = "ipykernel" in sys.modules
    if not (notebook if progress is None else progress):
        return []
    from rich.console import Console

    from leapcore.listeners.console import ConsoleListener

    if notebook:  # as plain lines, which it keeps in one piece; a moving bar would fill it
        return [ConsoleListener(Console(force_jupyter=False, force_terminal=False, width=100))]
    return [ConsoleListener(Console())]


def file_listeners(folder: Path) -> list[Any]:
    """What writes a run's events into its folder."""
    kinds: list[Any] = [StartFile, JsonLines, CkaMapLines, SkippedLog, ModelCard, ReportPage]
    return [kind(folder) for kind in kinds]


@contextmanager
def attached(listeners: Sequence[Any], *, active: bool) -> Iterator[Events]:
    """Attach listeners to a run, beside every plugin that listens; afterwards they are closed.

    Args:
        listeners: In the order in which they receive an event.
        active: Whether they receive any: of several processes, the first one's do.

    Returns:
        The run's events.
    """
    if not active:
        yield Events()
        return
    manager = installed_plugins().manager
    with ExitStack() as stack:
        for listener in reversed(listeners):
            stack.callback(getattr(listener, "close", lambda: None))
            manager.register(listener)
            stack.callback(manager.unregister, listener)
        yield ListenerEvents(manager)
