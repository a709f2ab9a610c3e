import pytest

from leapcore.core.alignment_schedulers import CkaScheduler, PlateauScheduler
from leapcore.core.clock_schedulers import LinearScheduler
from leapcore.core.duration import Duration, RunLength
from leapcore.core.schedulers import FixedScheduler
from leapcore.runs.forecast import Forecast, Stay, StepTimes, course, ends, started_at, together

LENGTH = RunLength(total_steps=60, steps_per_epoch=5)


def _with_run(scheduler):
    scheduler.run = LENGTH
    return scheduler


def _cka(**options):
    return _with_run(
        CkaScheduler(4, **{"start": "first", "max_time_per_layer": Duration(2, "ep"), **options})
    )


def test_without_scores_only_the_clock_moves_the_target():
    assert course(_cka()) == [Stay(0, 10, 10), Stay(1, 10, 10), Stay(2, 10, 10), Stay(3, 30, 3)]
    assert course(_cka(max_time_per_layer=None)) == [Stay(0, 60, 60)]
    patient = _with_run(PlateauScheduler(4, start=3, patience=Duration(8, "st")))
    assert [stay.steps for stay in course(patient)] == [8, 52]
    assert course(_with_run(FixedScheduler(4))) == [Stay(3, 60, 0)]


def test_a_calibration_can_choose_any_layer():
    scheduler = _cka(start="calibrate")
    assert [stay.target for stay in course(started_at(scheduler, 2))] == [2, 3]
    assert scheduler.target == 0


def test_teachers_walk_together():
    walks = {"a": ends([Stay(0, 4, 0), Stay(1, 6, 0)]), "b": ends([Stay(5, 7, 0), Stay(6, 3, 0)])}
    assert list(together(walks)) == [
        (4, {"a": 0, "b": 5}),
        (3, {"a": 1, "b": 5}),
        (3, {"a": 1, "b": 6}),
    ]
    assert list(together(walks, 8)) == [(2, {"a": 1, "b": 6})]


def test_the_forecast_follows_a_student_that_is_quicker():
    scheduler = _cka(threshold=0.9)
    forecast = Forecast({"t": scheduler}, {"t": [1, 2, 3, 4]}, others=10)
    assert list(forecast.left(0)) == [(10, 11), (10, 12), (10, 13), (30, 14)]
    for _ in range(3):
        scheduler.step(0.5)
    assert scheduler.step(0.95)
    assert list(forecast.left(4)) == [(6, 12), (10, 13), (40, 14)]  # an epoch counts where it ends


def test_a_walk_that_keeps_to_the_forecast_is_not_simulated_again(monkeypatch):
    scheduler, asked = _with_run(LinearScheduler(4)), []
    forecast = Forecast({"t": scheduler}, {"t": [1, 2, 3, 4]}, others=0)
    monkeypatch.setattr("leapcore.runs.forecast.course", lambda *a: asked.append(a) or course(*a))
    for step in range(60):
        assert sum(steps for steps, _ in forecast.left(step)) == 60 - step
        scheduler.step(None)
    assert len(asked) == 1


def test_times_are_proportional_until_layers_tell_them_apart():
    times = StepTimes()
    assert times.of(5.0) == 0
    times.note(10.0, 100, 100 * 0.3)
    assert times.of(20.0) == pytest.approx(0.6)
    for cost in (20.0, 40.0):
        times.note(cost, 1000, 1000 * (0.2 + 0.01 * cost))
    assert times.of(80.0) == pytest.approx(1.0, rel=0.01)


def test_times_never_fall_with_cost_nor_below_nothing():
    times = StepTimes({1.0: (100, 90.0), 2.0: (100, 10.0)})
    assert times.of(1.0) == times.of(4.0) == pytest.approx(0.5)
    steep = StepTimes({1.0: (100, 10.0), 2.0: (100, 90.0)})
    assert steep.of(0.5) > 0
