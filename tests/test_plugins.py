from importlib.metadata import EntryPoint

import pytest

from leapcore import hookimpl
from leapcore.errors import PluginError, UnknownNameError
from leapcore.plugins import Plugins, installed_plugins
from leapcore.registry import Registry


class _Found:
    """An entry point that loads what the test gives it."""

    dist = None

    def __init__(self, name, plugin):
        self.name, self.plugin = name, plugin

    def load(self):
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


class Good:
    @hookimpl
    def leapcore_register_backbones(self, registry):
        registry.register("mynet", dict)


class Clashing:
    @hookimpl
    def leapcore_register_schedulers(self, registry):
        registry.register("mine", dict)
        registry.register("cka", dict)


def test_the_bundled_backbones_come_through_their_entry_point():
    infos = {info.name: info for info in installed_plugins().infos}
    assert infos["backbones"].distribution.startswith("leapcore ")
    assert infos["backbones"].registers == {"backbones": ["vit"]}
    assert infos["leapcore"].registers["schedulers"] == ["cka", "fixed"]


def test_a_plugin_that_fails_to_import_is_named_and_harms_no_other():
    plugins = Plugins([_Found("broken", ImportError("no module named 'nonesuch'")), _Found("good", Good())])
    (broken,) = plugins.broken
    assert (broken.name, broken.cause) == ("broken", "ImportError: no module named 'nonesuch'")
    assert plugins.get("backbones", "mynet") is dict
    with pytest.raises(
        UnknownNameError, match=r"Plugin 'broken' .* is broken: ImportError: no module named 'nonesuch'"
    ):
        plugins.require("backbones", "mynett")


def test_a_clash_of_names_is_refused_and_leaves_nothing_of_the_second():
    plugins = Plugins([_Found("clashing", Clashing())])
    (broken,) = plugins.broken
    assert "clashing registers the scheduler 'cka', which leapcore did already" in broken.cause
    assert plugins.registries["schedulers"].names() == ["cka", "fixed"]
    assert plugins.get("schedulers", "cka").__name__ == "CkaScheduler"


def test_an_entry_point_of_a_missing_module_is_broken_not_fatal():
    plugins = Plugins([EntryPoint("gone", "no_such_module_anywhere", "leapcore")])
    assert "No module named 'no_such_module_anywhere'" in plugins.broken[0].cause


def test_factories_given_as_text_are_imported_when_needed():
    registry = Registry("backbone")
    registry.register("a", "collections:OrderedDict.fromkeys")
    registry.register("b", "collections:Nonesuch")
    assert registry.get("a")("x") == {"x": None}
    with pytest.raises(
        PluginError, match=r"leapcore names the factory 'collections:Nonesuch', which cannot be imported"
    ):
        registry.get("b")
    assert registry.names() == ["a", "b"]
