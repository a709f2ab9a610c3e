"""The ledger is exact: it adds up integers, in any order, and goes on anywhere."""

import json

from hypothesis import given
from hypothesis import strategies as st
from properties import quick

from leapcore import FlopsLedger
from leapcore.core.flops import LayerMacs

TEACHER, STUDENT = 3 * 10**11, 10**10  # about those of ViT-g/14 and ViT-S/14
macs = st.integers(0, TEACHER)
steps = st.builds(
    lambda images, **booked: (images, booked),
    st.integers(1, 4096),
    teacher_macs=macs,
    student_macs=st.none() | st.integers(0, STUDENT),
)
layers = st.lists(st.tuples(macs, st.integers(0, 10**7)), min_size=1, max_size=12)


def _ledger(booked=()):
    ledger = FlopsLedger(TEACHER, STUDENT)
    for images, step in booked:
        ledger.record_step(images, **step)
    return ledger


@quick
@given(st.lists(steps, max_size=20))
def test_steps_that_end_early_never_cost_more_than_the_last_layer_would(booked):
    ledger = _ledger(booked)
    assert 0 <= ledger.spent <= ledger.baseline
    assert 0 <= ledger.saved <= 1
    assert ledger.spent == sum(ledger.flops_by_part().values())


@quick
@given(st.lists(steps, max_size=20), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_a_batch_may_be_booked_in_pieces(booked, random):
    pieces = [(part, step) for images, step in booked for part in (images // 3, images - images // 3)]
    random.shuffle(pieces)
    assert _ledger(pieces) == _ledger(booked)


@quick
@given(st.lists(steps, max_size=20), st.integers(0, 20), st.integers(0, 10**15))
def test_a_ledger_goes_on_anywhere_without_losing_a_flop(booked, cut, spared):
    whole, first, resumed = _ledger(booked), _ledger(booked[:cut]), FlopsLedger(1, 1)
    for ledger in (whole, first):
        ledger.record_calibration(64, teacher_macs=TEACHER, student_macs=STUDENT, alignment_macs=7)
        ledger.record_spared(spared)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for images, step in booked[cut:]:
        resumed.record_step(images, **step)
    assert resumed == whole
    assert resumed.saved == whole.saved


@quick
@given(layers, st.data())
def test_a_pass_costs_its_deepest_layer_and_every_end_once(pairs, data):
    counted = LayerMacs(*map(tuple, zip(*pairs, strict=True)))
    asked = data.draw(st.lists(st.integers(0, len(pairs) - 1), min_size=1, max_size=6))
    others = sum(counted.ends[layer] for layer in set(asked) - {max(asked)})
    assert counted.until(*asked) == counted.prefixes[max(asked)] + others
    assert counted.until(*asked) <= counted.until(*range(len(pairs)))
    assert counted.whole == counted.prefixes[-1]
