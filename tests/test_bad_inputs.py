"""Every mistake of the table ends with cause and remedy, without a traceback, and the page tells of it."""

import shlex
from pathlib import Path

import pytest
from bad_inputs import BAD

import leapcore.plugins.loader

CASES = [bad for cases in BAD.values() for bad in cases]


@pytest.fixture
def plugins():
    """Plugins are looked for anew, as in a fresh process."""
    leapcore.plugins.loader.installed_plugins.cache_clear()
    yield
    leapcore.plugins.loader.installed_plugins.cache_clear()


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.message)
def test_a_mistake_ends_with_cause_and_remedy_and_leaves_nothing(bad, leapcore_, monkeypatch):
    bad.prepare(monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    code, out, err = leapcore_(*shlex.split(bad.command))
    told, message, remedy = err.partition(bad.message)
    assert code == 2
    assert told.startswith("Error: ")
    assert message, err
    assert bad.remedy in remedy, err
    assert "Traceback" not in out + err
    left = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if "__pycache__" not in path.parts}
    assert {path for path in left if left[path] != before.get(path) and path.is_file()} == set()


def test_there_are_sixty():
    assert len(CASES) >= 60
    assert len({(bad.command, bad.message) for bad in CASES}) == len(CASES)
