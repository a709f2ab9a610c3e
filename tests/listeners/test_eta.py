from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress

from leapcore.core.alignment_schedulers import CkaScheduler
from leapcore.core.duration import Duration, RunLength
from leapcore.listeners.eta import EtaColumn
from leapcore.runs.forecast import Forecast

COSTS, BATCH, STEPS = [10.0 * layer for layer in range(1, 11)], 64, 400


def _seconds(layer):
    """What steps really take: something besides their FLOPs."""
    return 0.05 + 0.002 * COSTS[layer]


@pytest.fixture
def half_way(monkeypatch):
    """A run of 20 epochs, one for each layer, after 40 % of its steps: (column, seconds that are left)."""
    now = [1000.0]
    monkeypatch.setattr("leapcore.listeners.eta.time.monotonic", lambda: now[0])
    scheduler = CkaScheduler(10, start="first", max_time_per_layer=Duration(1, "ep"))
    scheduler.run = RunLength(STEPS, 20)
    column, spent, left = EtaColumn(), 0.0, 0.0
    spec = SimpleNamespace(train=SimpleNamespace(batch_size=BATCH))
    forecast = Forecast({"t": scheduler}, {"t": COSTS}, others=0.0)
    column.start(SimpleNamespace(step=0, spec=spec, teachers={"t": None}, forecast=forecast))
    for step in range(1, STEPS + 1):
        layer = scheduler.target
        taken = _seconds(layer) + (2.0 if step == 1 else 0.0)
        scheduler.step(None)
        if step <= 160:
            now[0], spent = now[0] + taken, spent + taken
        else:
            left += taken
        if step <= 160 and step % 10 == 0:
            rate = 10 * BATCH / spent
            column.note(step, {"target_layer": layer + 1, "images_per_second": rate})
            spent = 0.0
        if step == 160:
            told = column._left
        if step % 20 == 0:
            scheduler.end_epoch()
    column._left = told
    return column, left, now


def test_it_knows_that_deeper_layers_take_longer(half_way):
    column, left, _ = half_way
    assert column._left == pytest.approx(left, rel=0.03)
    steps_so_far_would_say = 240 * sum(_seconds(layer) for layer in range(8)) / 8
    assert steps_so_far_would_say < 0.85 * left


def test_it_counts_down_and_ends_with_the_time_taken(half_way):
    column, _, now = half_way
    progress = Progress(column, console=Console(file=StringIO()), get_time=lambda: now[0])
    progress.add_task("", total=STEPS, completed=160)
    (task,) = progress.tasks
    before = column.render(task).plain
    now[0] += 5
    assert before.startswith(("ETA 0:00:5", "ETA 0:01:0"))
    assert column.render(task).plain < before
    progress.update(task.id, completed=STEPS)
    assert column.render(task).plain == "took 0:00:05"


def test_before_the_first_report_nothing_is_known():
    progress = Progress(console=Console(file=StringIO()))
    progress.add_task("", total=3)
    (task,) = progress.tasks
    assert EtaColumn().render(task).plain == "ETA -:--:--"
