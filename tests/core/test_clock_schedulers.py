import pytest

from leapcore import Duration
from leapcore.core.clock_schedulers import LinearScheduler, RandomScheduler, StepsScheduler
from leapcore.core.duration import RunLength


def _walk(scheduler, steps, per_epoch=10):
    """The target that each step uses, and where the scheduler said that it moved."""
    scheduler.run = RunLength(steps, per_epoch)
    scheduler.start(None)
    targets, moves = [], []
    for step in range(steps):
        targets.append(scheduler.target)
        if scheduler.step(None):
            moves.append(step + 1)
        if (step + 1) % per_epoch == 0:
            assert not scheduler.end_epoch()
    return targets, moves


def test_linear_gives_every_layer_the_same_time():
    targets, moves = _walk(LinearScheduler(4), 40)
    assert targets == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    assert moves == [10, 20, 30]


def test_linear_from_a_layer_and_to_a_time():
    targets, _ = _walk(LinearScheduler(4, start=3, duration=Duration(2, "ep")), 40)
    assert targets == [2] * 10 + [3] * 30


def test_steps_follow_the_list_in_both_units():
    at = {Duration(2, "ep"): 4, Duration(0, "ep"): 1, Duration(5, "st"): 3}
    targets, moves = _walk(StepsScheduler(4, at=at), 30)
    assert targets == [0] * 5 + [2] * 15 + [3] * 10
    assert moves == [5, 20]
    with pytest.raises(ValueError, match="at is 5, but the curriculum chooses from layers 1 to 4"):
        StepsScheduler(4, at={Duration(0, "ep"): 5})
    with pytest.raises(ValueError, match="at names no layer"):
        StepsScheduler(4, at={})


def test_random_draws_depend_on_the_seed_alone():
    first, _ = _walk(RandomScheduler(12, seed=1), 200)
    again, _ = _walk(RandomScheduler(12, seed=1), 200)
    other, _ = _walk(RandomScheduler(12, seed=2), 200)
    assert first == again != other
    assert all(len(set(first[start : start + 10])) == 1 for start in range(0, 200, 10)), (
        "a draw holds an epoch"
    )
    assert len(set(first)) > 4


@pytest.mark.parametrize("build", [LinearScheduler, RandomScheduler])
def test_a_state_goes_on(build):
    whole, _ = _walk(build(12), 120)
    scheduler, again = build(12), build(12)
    _walk(scheduler, 50)
    for resumed in (scheduler, again):
        resumed.run = RunLength(120, 10)
    again.load_state_dict(scheduler.state_dict())
    later = []
    for _ in range(51, 120):
        again.step(None)
        later.append(again.target)
    assert later == whole[51:]


def test_random_draws_end_with_the_last_layer_for_good():
    targets, _ = _walk(RandomScheduler(12, every=Duration(1, "st"), duration=Duration(3, "ep")), 50)
    assert len(set(targets[:30])) > 4
    assert targets[30:] == [11] * 20
