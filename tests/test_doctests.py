"""Examples in docstrings run, and everything public has one."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import leapcore
from leapcore.plugins.loader import installed_plugins

ROOT = Path(leapcore.__file__).parent
PROMPT = ">>> "
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Public names whose docstrings have no example of their own.
WITHOUT = {"hookimpl"}  # pluggy's own object; the example is at the head of plugins/hooks.py


def _with_examples():
    """Modules whose source has an example; the others need not be imported."""
    for path in sorted(ROOT.rglob("*.py")):
        if "templates" not in path.parts and PROMPT in path.read_text():
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__")


@pytest.mark.parametrize("module", _with_examples())
def test_the_examples_of_a_module_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where those that write files may do so
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(module), optionflags=OPTIONS)
    assert result.attempted > 0
    assert result.failed == 0, "what differs is printed above"


def _without_example(things):
    """The names of those whose own docstring, not one of a parent, has none."""
    return {name for name, thing in things.items() if PROMPT not in (thing.__doc__ or "")}


def test_every_public_name_has_an_example():
    public = {name: getattr(leapcore, name) for name in leapcore.__all__ if name != "__version__"}
    assert _without_example(public) == WITHOUT


@pytest.mark.parametrize("kind", ["schedulers", "losses"])
def test_every_scheduler_and_loss_of_ours_has_an_example(kind):
    plugins = installed_plugins()
    factories = {name: plugins.get(kind, name) for name in plugins.registries[kind].names()}
    ours = {name: made for name, made in factories.items() if made.__module__.startswith("leapcore.")}
    assert len(ours) >= 2
    assert not _without_example(ours)
