"""What holds for every scheduler with any options and any scores, wherever a run is cut in two."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import quick

from leapcore import Duration
from leapcore.core.alignment_schedulers import CkaScheduler, CosineScheduler, PlateauScheduler
from leapcore.core.clock_schedulers import LinearScheduler, RandomScheduler, StepsScheduler
from leapcore.core.duration import RunLength

durations = st.builds(Duration, st.integers(1, 9), st.sampled_from(["ep", "st"]))
scores = st.one_of(st.none(), st.floats(-1, 1), st.sampled_from([math.nan, math.inf, -math.inf]))
walks = st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=60)  # with: does an epoch end?


def _builder(kind, layers, options, total=60):
    """Builds the same scheduler time and again."""

    def build():
        scheduler = kind(layers, **options)
        scheduler.run = RunLength(total, 7)
        return scheduler

    return build


@st.composite
def alignment_schedulers(draw, limited=False):
    """LEAP's kinds, with options of all sorts."""
    layers = draw(st.integers(1, 8))
    options = {
        "ema": draw(st.floats(0.01, 1)),
        "max_time_per_layer": draw(durations if limited else st.none() | durations),
        "start": draw(st.sampled_from(["first", "calibrate"]) | st.integers(1, layers)),
        "snap_to_last_at": draw(st.none() | st.integers(1, layers)),
        "measure_every": draw(st.integers(1, 4)),
    }
    kind = draw(st.sampled_from([CkaScheduler, CosineScheduler, PlateauScheduler]))
    own = {"patience": durations} if kind is PlateauScheduler else {"threshold": st.floats(0.1, 1)}
    return _builder(kind, layers, options | draw(st.fixed_dictionaries(own)))


@st.composite
def clock_schedulers(draw):
    """Those that follow the clock."""
    layers = draw(st.integers(1, 8))
    times = st.dictionaries(durations, st.integers(1, layers), min_size=1, max_size=4)
    kinds = {
        LinearScheduler: {"duration": st.none() | durations},
        StepsScheduler: {"at": times},
        RandomScheduler: {"every": durations, "duration": st.none() | durations},
    }
    kind = draw(st.sampled_from(list(kinds)))
    return _builder(kind, layers, draw(st.fixed_dictionaries(kinds[kind])), draw(st.integers(1, 60)))


def _started(build):
    scheduler = build()
    scheduler.start([math.nan, *map(math.sin, range(1, scheduler.num_layers))])
    return scheduler


def _take(scheduler, step):
    """One step, at an epoch's end or not: whether the scheduler said that the target moved."""
    score, ends = step
    moved = scheduler.step(score if scheduler.wants_score else None)
    return (scheduler.end_epoch() or moved) if ends else moved


@quick
@given(alignment_schedulers(), walks)
def test_the_target_climbs_inside_its_range_and_says_when(build, walk):
    scheduler = _started(build)
    for step in walk:
        before = scheduler.target
        assert _take(scheduler, step) == (scheduler.target != before)
        assert 0 <= before <= scheduler.target < scheduler.num_layers
        assert math.isfinite(scheduler.ema)
        if scheduler.snap_to_last_at is not None:
            passed = scheduler.target >= scheduler.snap_to_last_at - 1
            assert not passed or scheduler.target == scheduler.num_layers - 1


@quick
@given(alignment_schedulers(limited=True), walks)
def test_no_layer_but_the_last_is_the_target_for_longer_than_the_limit(build, walk):
    scheduler = _started(build)
    limit, spent = scheduler.max_time_per_layer, {"st": 0, "ep": 0}
    for step in walk:
        if scheduler.target == scheduler.num_layers - 1:
            break
        spent = {"st": spent["st"] + 1, "ep": spent["ep"] + step[1]}
        moved = _take(scheduler, step)
        assert moved or spent[limit.unit] < limit.amount
        if moved:
            spent = dict(scheduler.time_on_layer)  # a step and an epoch's end may each have moved it


@quick
@given(alignment_schedulers() | clock_schedulers(), walks, st.data())
def test_a_run_cut_in_two_anywhere_walks_as_in_one_go(build, walk, data):
    cut = data.draw(st.integers(0, len(walk)))
    whole, first, second = _started(build), _started(build), build()
    for step in walk[:cut]:
        _take(whole, step), _take(first, step)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step in walk[cut:]:
        assert second.wants_score == whole.wants_score
        assert _take(second, step) == _take(whole, step)
        assert (second.target, second.reason) == (whole.target, whole.reason)
    assert second.state_dict() == whole.state_dict()


@quick
@given(st.integers(1, 12), st.integers(1, 80), st.data())
def test_a_linear_pace_gives_each_layer_the_same_time_to_a_step(layers, total, data):
    start = data.draw(st.integers(1, layers))
    scheduler = LinearScheduler(layers, start=start)
    scheduler.run = RunLength(total, 7)
    scheduler.start(None)
    targets = []
    for _ in range(total):
        targets.append(scheduler.target)
        scheduler.step(None)
    assert targets == sorted(targets)
    times = [targets.count(layer) for layer in range(start - 1, layers)]
    assert sum(times) == total
    assert max(times) - min(times) <= 1


@quick
@given(st.integers(1, 9), st.floats(0.01, 1), st.floats(-1, 1), st.integers(1, 6))
def test_an_average_forgets_alike_however_seldom_is_measured(every, ema, score, times):
    often, seldom = (
        CkaScheduler(3, ema=ema, threshold=2, measure_every=n, start="first") for n in (1, every)
    )
    for _ in range(every * times):
        often.step(score)
        seldom.step(score if seldom.wants_score else None)
    assert seldom.ema == pytest.approx(often.ema, rel=1e-9, abs=1e-12)
