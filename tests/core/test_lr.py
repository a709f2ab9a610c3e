import pytest

from leapcore.core.lr import RestartingCosine, SegmentWarmup, WarmupConstant, WarmupCosine


def _ours(case):
    """The schedule that the reference calls by these flags."""
    flags, total, warmup = case["kwargs"], case["total_steps"], case["warmup_steps"]
    if flags.get("segment_warmup"):
        decay = 0.05 if flags.get("segment_peak_decay") else 0.0
        return SegmentWarmup(total, flags["segment_warmup_steps"], peak_decay=decay)
    if flags.get("no_decay"):
        return WarmupConstant(0)
    kinds = {"decaying_peak": "envelope", "decaying_peak_gap": "gap", "rising_gap": "rising_gap"}
    return RestartingCosine(
        total,
        warmup,
        peak=next((kind for flag, kind in kinds.items() if flags.get(flag)), "full"),
        scale=flags.get("rising_gap_scale", 0.5),
        constant_warmup=flags.get("constant_warmup", False),
        floor=flags.get("min_lr_ratio", 0.001),
    )


def test_every_sequence_of_the_reference_holds(golden):
    cases = [case for case in golden("lr_state")["cases"] if "resets" in case]
    assert len(cases) >= 11
    for case in cases:
        schedule = _ours(case)
        multipliers = [schedule(0)]
        for step in range(case["total_steps"] - 1):
            if step in case["resets"]:
                schedule.advance(step)
            multipliers.append(schedule(step + 1))
        expected = case["multiplier_used_at_step"][: len(multipliers)]
        assert multipliers == pytest.approx(expected, abs=1e-6), case["name"]


def test_plain_warmup_and_cosine_equal_the_reference(golden):
    for case in golden("lightly_defaults")["cosine_warmup"]:
        schedule = WarmupCosine(case["total"], case["warmup"], floor=case["end_value"])
        expected = case["lr_mult"]
        assert [schedule(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-6)


def test_advances_inside_the_warmup_do_not_count():
    schedule, untouched = RestartingCosine(100, 20), RestartingCosine(100, 20)
    schedule.advance(5)
    assert [schedule(step) for step in range(100)] == [untouched(step) for step in range(100)]


def test_a_state_goes_on():
    schedule, again = RestartingCosine(100, peak="gap"), RestartingCosine(100, peak="gap")
    schedule.advance(30)
    again.load_state_dict(schedule.state_dict())
    assert [again(step) for step in range(31, 100)] == [schedule(step) for step in range(31, 100)]


def test_constant_holds_the_peak_after_its_warmup():
    assert [WarmupConstant(4)(step) for step in (0, 3, 4, 99)] == [0.25, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", [WarmupCosine(10, 2), WarmupConstant(2)])
def test_a_plain_course_does_not_care_for_advances(schedule):
    before = [schedule(step) for step in range(10)]
    schedule.advance(3)
    schedule.load_state_dict(schedule.state_dict())
    assert [schedule(step) for step in range(10)] == before
