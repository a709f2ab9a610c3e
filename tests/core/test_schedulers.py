import pytest
from pydantic import ValidationError

from leapcore.core.schedulers import FixedScheduler
from leapcore.spec.options import checked_options


def test_fixed_stays():
    scheduler = FixedScheduler(12)
    assert (scheduler.target, scheduler.wants_score, scheduler.wants_calibration) == (11, False, False)
    assert scheduler.sample_images is None
    scheduler.start(None)
    assert not scheduler.step(None)
    assert not scheduler.end_epoch()
    assert FixedScheduler(12, layer=3).target == 2


def test_a_layer_that_the_teacher_does_not_have_is_refused():
    with pytest.raises(ValueError, match="layer is 13, but the curriculum chooses from layers 1 to 12"):
        FixedScheduler(12, layer=13)
    assert checked_options(FixedScheduler, {"layer": 1}) == {"layer": 1}
    with pytest.raises(ValidationError, match="layer"):
        checked_options(FixedScheduler, {"layer": 0})
