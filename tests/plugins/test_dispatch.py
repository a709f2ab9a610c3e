import inspect

import pytest

from leapcore.plugins import hooks
from leapcore.plugins.dispatch import Events


def _event_hooks():
    return {
        name.removeprefix("leapcore_"): hook
        for name, hook in vars(hooks).items()
        if name.startswith("leapcore_") and not name.startswith("leapcore_register_")
    }


def test_every_event_has_a_method_with_the_arguments_of_its_hook():
    methods = {name: method for name, method in vars(Events).items() if not name.startswith("_")}
    assert methods.keys() == _event_hooks().keys()
    for name, hook in _event_hooks().items():
        assert list(inspect.signature(methods[name]).parameters)[1:] == list(
            inspect.signature(hook).parameters
        )


def test_every_event_stands_in_the_timeline():
    timeline = inspect.getmodule(Events).__doc__
    assert all(name in timeline for name in _event_hooks())


def test_an_event_that_does_not_exist_is_an_error_at_once():
    with pytest.raises(AttributeError, match="run_startd"):
        Events().run_startd(None)


def test_without_listeners_nothing_happens():
    assert Events().metrics(1, {"loss": 0.5}) is None
