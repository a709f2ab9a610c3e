from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from leapcore import hookimpl
from leapcore.errors import PluginError, UnknownNameError
from leapcore.plugins.loader import Plugins, installed_plugins
from leapcore.plugins.registry import Registry
from leapcore.spec.options import options_model


class _Found:
    """An entry point that loads what the test gives it."""

    def __init__(self, name, plugin, distribution=None):
        self.name, self.plugin = name, plugin
        self.dist = distribution and SimpleNamespace(name=distribution, version="1.0", requires=None)

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
    assert infos["backbones"].registers == {
        "backbones": ["convnext", "hierarchical", "hybrid", "timm", "vit"]
    }
    assert {"cka", "fixed"} <= set(infos["builtin"].registers["schedulers"])


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
    assert (
        "plugin clashing (an unknown distribution) registers the scheduler 'cka', which builtin (leapcore "
        in broken.cause
    )
    assert "mine" not in plugins.registries["schedulers"].names()
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
        PluginError,
        match=r"plugin leapcore names the factory 'collections:Nonesuch', which cannot be imported",
    ):
        registry.get("b")
    assert registry.names() == ["a", "b"]


def test_two_distributions_may_call_their_plugins_alike():
    plugins = Plugins(
        [_Found("same", Good(), "a"), _Found("same", Clashing(), "b"), _Found("same", Good(), "a")]
    )
    assert [info.cause == "" for info in plugins.infos] == [True, True, False, False]
    assert plugins.get("backbones", "mynet") is dict


def test_a_misspelt_hook_is_reported():
    class Misspelt:
        @hookimpl
        def leapcore_register_backbone(self, registry):
            registry.register("mynet", dict)

    plugins = Plugins([_Found("misspelt", Misspelt())])
    assert "leapcore_register_backbone" in plugins.broken[0].cause


def test_a_factory_whose_module_fails_in_its_own_way_is_named(tmp_path, monkeypatch):
    (tmp_path / "needs_a_library.py").write_text("raise OSError('libnone.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("backbone")
    registry.register("c", "needs_a_library:build")
    with pytest.raises(PluginError, match=r"OSError: libnone.so: cannot open\nInstall what it needs"):
        registry.get("c")


def test_annotations_that_cannot_be_read_are_named():
    def scheduler(num_layers, *, limit: "Nowhere" = 1):  # noqa: F821
        pass

    with pytest.raises(PluginError, match=r"annotations of .*scheduler cannot be read: name 'Nowhere'"):
        options_model(scheduler)
