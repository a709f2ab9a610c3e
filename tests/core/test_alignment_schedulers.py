import logging
import math

import pytest
from pydantic import ValidationError

from leapcore import Duration
from leapcore.core.alignment import ALIGNMENTS
from leapcore.core.alignment_schedulers import CkaScheduler, CosineScheduler, PlateauScheduler
from leapcore.core.duration import RunLength
from leapcore.spec.options import checked_options


def _from_reference(trace):
    config = trace["config"]
    limit = config["max_epochs_per_block"]
    return CkaScheduler(
        config["total_teacher_blocks"],
        threshold=config["cka_threshold"],
        ema=config["ema_alpha"],
        max_time_per_layer=Duration(limit, "ep"),
        start=trace["start_block"],
        snap_to_last_at=config["snap_to_last_at"],
    )


def test_every_trace_of_the_reference_controller_holds(golden):
    traces = golden("controller_traces")["traces"]
    assert len(traces) == 10
    for trace in traces:
        scheduler = _from_reference(trace)
        if trace["maybe_snap_at_calibration"]:
            scheduler.start(None)
        score, moved = None, None
        for event, argument, block, ema, epochs, returned in trace["trace"]:
            # The reference updates and checks in two calls each; here one call does both.
            if event == "update_cka":
                score = argument
            elif event == "check_step":
                moved = scheduler.step(score)
            elif event == "check_epoch":
                moved = scheduler.end_epoch()
            if event in ("init", "check_step", "check_epoch"):
                state = (scheduler.target + 1, scheduler.time_on_layer["ep"])
                assert state == (block, epochs), (trace["name"], event)
                assert scheduler.ema == pytest.approx(ema, abs=1e-12)
            if event.startswith("check"):
                assert moved == returned


def test_calibration_takes_the_best_layer_and_the_first_of_equals():
    scheduler = CkaScheduler(4)
    assert scheduler.wants_calibration
    scheduler.start([0.1, 0.7, math.nan, 0.7])
    assert scheduler.target == 1


def test_a_time_limit_in_steps_advances_after_that_many():
    scheduler = CkaScheduler(3, threshold=2.0, max_time_per_layer=Duration(2, "st"), start="first")
    assert [scheduler.step(0.0) for _ in range(5)] == [False, True, False, True, False]
    assert scheduler.target == 2
    assert scheduler.reason == "time is up after 2st"


def test_without_a_time_limit_only_alignment_advances():
    scheduler = CkaScheduler(3, max_time_per_layer=None, start="first")
    assert not any(scheduler.step(0.5) or scheduler.end_epoch() for _ in range(100))
    assert scheduler.step(0.9)
    assert scheduler.reason == "alignment reached 0.900"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_skipped_with_a_warning(bad, caplog):
    scheduler = CkaScheduler(3, ema=0.5, start="first")
    scheduler.step(0.8)
    with caplog.at_level(logging.WARNING):
        assert not scheduler.step(bad)
    assert "the curriculum skips it" in caplog.text
    assert scheduler.ema == pytest.approx(0.4)


def test_state_survives_and_refuses_another_depth():
    scheduler = CkaScheduler(12, ema=0.3, start=5)
    for score in (0.2, 0.4):
        scheduler.step(score)
    scheduler.end_epoch()
    again = CkaScheduler(12, ema=0.3, start="first")
    again.load_state_dict(scheduler.state_dict())
    assert again.state_dict() == scheduler.state_dict()
    assert [again.step(0.9), again.target, again.ema] == [
        scheduler.step(0.9),
        scheduler.target,
        scheduler.ema,
    ]
    with pytest.raises(ValueError, match=r"a choice of 12 layers, this one chooses from 4"):
        CkaScheduler(4).load_state_dict(scheduler.state_dict())


def test_a_saved_state_does_not_change_with_the_scheduler():
    scheduler = CkaScheduler(12, start="first")
    state = scheduler.state_dict()
    scheduler.step(0.1)
    assert state["time_on_layer"]["st"] == 0


def test_a_start_the_teacher_does_not_have_is_refused():
    with pytest.raises(ValueError, match="start is 13, but the curriculum chooses from layers 1 to 12"):
        CkaScheduler(12, start=13)


def test_measuring_every_third_step_only(caplog):
    scheduler = CkaScheduler(3, measure_every=3, start="first")
    measured = []
    for _ in range(7):
        measured.append(scheduler.wants_score)
        scheduler.step(0.1 if scheduler.wants_score else None)
    assert measured == [True, False, False, True, False, False, True]
    assert not caplog.text


def test_a_score_in_every_fourth_step_moves_the_average_as_four_equal_ones_would():
    often, seldom = (CkaScheduler(3, measure_every=every, ema=0.1, start="first") for every in (1, 4))
    for step in range(9):
        for scheduler in (often, seldom):
            scheduler.step(0.5 if scheduler.wants_score else None)
        if step % 4 == 0:
            before = 0.5 * (1 - 0.9**step)  # what `often` had before this step's score
            assert seldom.ema == pytest.approx(0.5 - 0.9**4 * (0.5 - before), rel=1e-12)


def test_at_the_last_layer_the_alignment_is_measured_for_the_record_only():
    scheduler = CkaScheduler(3, start=3)
    measured = []
    for _ in range(21):
        measured.append(scheduler.wants_score)
        scheduler.step(0.99 if scheduler.wants_score else None)
    assert [step for step, is_measured in enumerate(measured) if is_measured] == [0, 10, 20]


def test_each_measure_is_named():
    assert CkaScheduler(3).alignment == "cka"
    assert CkaScheduler(3, unbiased=True).alignment == "unbiased_cka"
    assert CosineScheduler(3).alignment == "cosine"
    assert set(ALIGNMENTS) == {"cka", "unbiased_cka", "cosine"}


def test_plateau_advances_when_the_alignment_stops_improving():
    scheduler = PlateauScheduler(3, patience=Duration(3, "st"), min_gain=0.05, ema=1.0, start="first")
    assert not any(scheduler.step(score) for score in (0.1, 0.2, 0.3, 0.4))
    assert not scheduler.step(0.42), "no gain, but patience lasts"
    assert not scheduler.step(0.43)
    assert scheduler.step(0.44)
    assert (scheduler.target, scheduler.reason) == (1, "alignment stays at 0.440")
    assert not scheduler.step(0.1), "the new layer starts afresh"
    assert (scheduler.best, scheduler.best_at) == (0.1, 1)


def test_plateau_counts_its_patience_in_epochs_of_the_run():
    scheduler = PlateauScheduler(
        3, patience=Duration(1, "ep"), ema=1.0, start="first", max_time_per_layer=None
    )
    scheduler.run = RunLength(total_steps=100, steps_per_epoch=7)
    assert [scheduler.step(0.5) for _ in range(8)] == [False] * 7 + [True]


def test_a_plateau_that_never_rose_is_left_after_its_patience_too():
    scheduler = PlateauScheduler(3, patience=Duration(3, "st"), start="first")
    assert [scheduler.step(0.0) for _ in range(6)] == [False, False, True] * 2
    level = PlateauScheduler(3, patience=Duration(2, "st"), min_gain=0.0, ema=1.0, start="first")
    assert [level.step(0.5) for _ in range(3)] == [False, False, True], "as high as before is no gain"


def test_an_alignment_just_at_the_threshold_is_enough():
    assert CkaScheduler(3, threshold=0.5, start="first").step(0.5)
    assert not CkaScheduler(3, threshold=0.5, start="first").step(0.4999)


def test_scores_choose_the_start_only_where_it_is_calibrated():
    named = CkaScheduler(4, start=2)
    named.start([0.1, 0.2, 0.9, 0.3])
    assert named.target == 1
    uncalibrated = CkaScheduler(4)
    uncalibrated.start(None)
    assert uncalibrated.target == 0


def test_who_starts_at_the_last_layer_has_not_been_snapped_there():
    scheduler = CkaScheduler(3, start=3, snap_to_last_at=2)
    scheduler.start(None)
    assert (scheduler.target, scheduler.reason) == (2, "")
    snapped = CkaScheduler(3, start=2, snap_to_last_at=2)
    snapped.start(None)
    assert (snapped.target, snapped.reason) == (2, "snapped to the last")


def test_options_that_are_left_out_are_the_papers():
    leap, plateau = CkaScheduler(12), PlateauScheduler(12)
    for scheduler in (leap, plateau):
        assert scheduler.max_time_per_layer == Duration(5, "ep")
        assert (scheduler.wants_calibration, scheduler.snap_to_last_at) == (True, None)
        assert (scheduler.sample_images, scheduler.measure_every) == (None, 1)
        assert scheduler.alignment == "cka"
    assert (leap.threshold, leap.ema_weight) == (0.85, 1)
    assert (plateau.patience, plateau.min_gain) == (Duration(1, "ep"), 0.01)
    assert plateau.ema_weight == pytest.approx(0.1)
    assert PlateauScheduler(12, unbiased=True).alignment == "unbiased_cka"


BOUNDS = [  # the last value that an option takes, and the first that it does not
    (CkaScheduler, "threshold", 1e-9, 0.0),
    (CkaScheduler, "ema", 1.0, 1.01),
    (CkaScheduler, "ema", 1e-9, 0.0),
    (CkaScheduler, "start", 1, 0),
    (CkaScheduler, "snap_to_last_at", 1, 0),
    (CkaScheduler, "sample_images", 2, 1),
    (CkaScheduler, "measure_every", 1, 0),
    (PlateauScheduler, "min_gain", 0.0, -0.01),
    (PlateauScheduler, "ema", 1.0, 1.01),
]


@pytest.mark.parametrize(("kind", "option", "last", "beyond"), BOUNDS)
def test_an_option_beyond_its_bounds_is_refused(kind, option, last, beyond):
    assert checked_options(kind, {option: last})[option] == last
    with pytest.raises(ValidationError, match=option):
        checked_options(kind, {option: beyond})
