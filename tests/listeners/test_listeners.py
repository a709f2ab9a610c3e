"""The listeners that a spec names: how they are chosen, and that none can end a run."""

import logging
import re
from pathlib import Path

import pytest

from leapcore import LeapcoreError, hookimpl, load_spec, run
from leapcore.plugins.loader import installed_plugins

DOCS = Path(__file__).parents[2] / "docs/listeners.md"


@pytest.fixture
def registered(monkeypatch):
    """Registers a listener for one test."""
    registry = installed_plugins().registries["listeners"]
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    return registry.register


class Broken:
    """Its network is away."""

    calls, closed = 0, 0

    @hookimpl
    def leapcore_metrics(self, step, metrics):
        Broken.calls += 1
        raise ConnectionError("the server is away")

    def close(self):
        Broken.closed += 1


@pytest.mark.parametrize(
    "written",
    ["[tensorboard]", "{tensorboard: }", "{tensorboard: {}}", "[{tensorboard: }]"],
)
def test_a_spec_names_listeners_in_a_list_or_a_mapping(spec_file, written):
    assert load_spec(spec_file, [f"listeners={written}"]).listeners == {"tensorboard": {}}
    assert load_spec(spec_file).listeners == {"tensorboard": {}}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("[tensorbord]", r"listeners.tensorbord: unknown listener 'tensorbord'\nDid you mean 'tensorboard'"),
        (
            "[{tensorboard: {x: 1}}]",
            r"listeners.tensorboard.x: the listener .tensorboard. has no such option",
        ),
        ("[tensorboard, {a: , b: }]", r"listeners: each is a name, or a name with options"),
        ("[tensorboard, tensorboard]", r"listeners: each is named once"),
    ],
)
def test_what_is_wrong_with_listeners_is_told_before_anything_runs(spec_file, written, told):
    with pytest.raises(LeapcoreError, match=told):
        load_spec(spec_file, [f"listeners={written}"])


def test_a_listener_that_is_not_installed_is_told_with_the_remedy(
    spec_file, tmp_path, monkeypatch, registered
):
    def strange():
        """Its package is not there."""

    strange.needs = ("not_installed", 'pip install "strange[not_installed]"')
    registered("strange", strange)
    (tmp_path / "not_installed").mkdir()  # a folder of that name, such as those that W&B makes, is no package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LeapcoreError, match=r"'not_installed' is not installed\n.*pip install \"strange"):
        load_spec(spec_file, ["listeners=[strange]"])


def test_a_listener_that_fails_is_warned_of_once_and_the_run_goes_on(spec_file, tmp_path, registered, caplog):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    exec(code, documented := {})
    registered("broken", Broken)
    registered("table", documented["TableListener"])
    settings = ["listeners=[broken, {table: {file: all.csv}}]", "train.log_every=1"]
    with caplog.at_level(logging.WARNING):
        report = run(load_spec(spec_file, settings), output=tmp_path / "run")
    told = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert told == [
        "the listener 'broken' failed and is left out from here on; the run goes on. "
        "ConnectionError: the server is away"
    ]
    assert (report.status, report.steps, Broken.calls, Broken.closed) == ("finished", 2, 1, 1)
    assert not (tmp_path / "run/tensorboard").exists()  # it was not named
    lines = (report.folder / "listeners/all.csv").read_text().splitlines()  # the one in the docs works
    assert [line.split(",")[:2] for line in lines if ",loss," in line] == [["1", "loss"], ["2", "loss"]]


def test_a_listener_with_a_misspelt_hook_is_an_error(spec_file, tmp_path, registered):
    class Misspelt:
        @hookimpl
        def leapcore_metric(self, step): ...

    registered("misspelt", Misspelt)
    with pytest.raises(LeapcoreError, match=r"listener 'misspelt' of plugin .*'leapcore_metric'"):
        run(load_spec(spec_file, ["listeners=[misspelt]"]), output=tmp_path / "run")
    assert not list(tmp_path.glob("run/*"))


def test_every_figure_is_documented(spec_file, tmp_path):
    settings = [
        "train.log_every=1",
        "evaluate={knn: 1st, linear: end, teacher: true}",
        "objective={mixup: false, sigreg: 0.01, patch_embedding: 0.1}",
        f"cache.folder={tmp_path / 'cache'}",
    ]
    told = set()

    class Names:
        @hookimpl
        def leapcore_metrics(self, metrics):
            told.update(metrics)

    report = run(load_spec(spec_file, settings), output=tmp_path / "run", listeners=[Names()])
    documented = set(re.findall(r"^\| `([\w]+)`", DOCS.read_text(), re.MULTILINE))
    assert len(told) > 18
    assert {re.sub("^teacher_", "", name) for name in told} <= documented
    curves = _curves(report.folder)
    assert {name: sorted(set(steps)) for name, steps in curves.items()}["loss"] == [1, 2]
    assert told | {"target_changed"} == curves.keys()


def _curves(folder):
    """TensorBoard's steps by figure."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
