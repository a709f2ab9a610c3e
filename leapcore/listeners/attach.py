"""Who hears of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from leapcore.listeners.files import CkaMapLines, JsonLines, SkippedLog, StartFile
from leapcore.listeners.pages import ModelCard, ReportPage
from leapcore.plugins.dispatch import Events, ListenerEvents
from leapcore.plugins.loader import installed_plugins


def shown(progress: bool | None) -> list[Any]:
    """What shows the run in a terminal or a notebook, where that is wanted."""
    notebook = "ipykernel" in sys.modules
    if not (notebook if progress is None else progress):
        return []
    from rich.console import Console

    from leapcore.listeners.console import ConsoleListener

    if notebook:  # as plain lines, which it keeps in one piece; a moving bar would fill it
        return [ConsoleListener(Console(force_jupyter=False, force_terminal=False, width=100))]
    return [ConsoleListener(Console())]


@contextmanager
def heard(listeners: Sequence[Any], *, tells: bool) -> Iterator[Events]:
    """Let listeners hear a run beside every plugin that listens; of several processes, only the first tells.

    Args:
        listeners: In the order in which they are told.
        tells: Whether this process tells anybody.
    """
    if not tells:
        yield Events()
        return
    manager = installed_plugins().manager
    with ExitStack() as stack:
        for listener in reversed(listeners):
            stack.callback(getattr(listener, "close", lambda: None))
            manager.register(listener)
            stack.callback(manager.unregister, listener)
        yield ListenerEvents(manager)


def kept(path: Path, chosen: Sequence[Any], *, tells: bool) -> AbstractContextManager[Any]:
    """Let what writes to the folder hear of the run before all others, and be done before it is left."""
    kinds: list[Any] = [StartFile, JsonLines, CkaMapLines, SkippedLog, ModelCard, ReportPage]
    return heard([*(kind(path) for kind in kinds if tells), *chosen], tells=tells)
