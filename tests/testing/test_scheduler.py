"""check_scheduler finds what is wrong with a scheduler, and says what to do about it.

``Clockwork`` keeps every rule; each class below it breaks one, and says which message that must give.
"""

import random
import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from violations import Violations

from leapcore import Duration
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.plugins.loader import installed_plugins
from leapcore.testing import ContractError, check_scheduler

RULES = ("targets", "moves", "one layer", "same walk", "random numbers", "state")
SIX_EPOCHS = Duration(6, "ep")
REQUIRED = {"steps": {"at": {"0ep": 1}}}  # options without a default


class Clockwork(DifficultyScheduler):
    """Moves to the next layer every ten steps."""

    names = ("num_layers", "target", "reason", "steps")

    def __init__(self, num_layers, *, every: int = 10):
        super().__init__(num_layers)
        self.every, self.steps, self.target = every, 0, 0

    def choose(self):
        return min(self.steps // self.every, self.num_layers - 1)

    def step(self, score):
        self.steps += 1
        before, self.target = self.target, self.choose()
        return self.target != before

    def state_dict(self):
        return {name: getattr(self, name) for name in self.names}


_FOUND = Violations()
VIOLATIONS, SUBTLE = _FOUND.named, _FOUND.subtle
breaks, subtle = _FOUND.breaks, _FOUND.subtly


# --- targets ------------------------------------------------------------------------------------------


@breaks("targets", "the target is 6, for a teacher of 6 layers", "0-based index")
class ClimbsTooFar(Clockwork):
    def choose(self):
        return self.steps // self.every


@breaks("targets", "the target is -1", "0-based index")
class CountsFromTheEnd(Clockwork):
    def choose(self):
        return -1


@breaks("targets", "the target is 0.0", "0-based index")
class ChoosesAFraction(Clockwork):
    def choose(self):
        return super().choose() / 1


@breaks("targets", "the target is 99", "0-based index")
class StartsTooFar(Clockwork):
    def start(self, scores):
        self.target = 99


@breaks("targets", r"answered \[None\], not True or False", ".")
class AnswersNothing(Clockwork):
    def step(self, score):
        super().step(score)


@breaks("targets", "returns a dict", "Return a DifficultyScheduler")
def returns_a_dict(num_layers):
    return {"target": 0}


# --- moves --------------------------------------------------------------------------------------------


@breaks("moves", "the target went from 0 to 1, and the answer was False", "whether the target changed")
class MovesSilently(Clockwork):
    def step(self, score):
        super().step(score)
        return False


@breaks("moves", "the target went from 0 to 0, and the answer was True", "whether the target changed")
class ClaimsToMove(Clockwork):
    def step(self, score):
        super().step(score)
        return True


@breaks("moves", "the target went from 0 to 1, and the answer was False", "whether the target changed")
class MovesSilentlyAtTheEndOfAnEpoch(Clockwork):
    def step(self, score):
        return False

    def end_epoch(self):
        self.target = min(self.target + 1, self.num_layers - 1)
        return False


# --- one layer ----------------------------------------------------------------------------------------


@breaks("one layer", "with a teacher of one layer, another one was chosen", "single layer")
class WantsTwoLayers(Clockwork):
    def choose(self):
        return super().choose() or 1


@breaks("one layer", "ZeroDivisionError", "single layer")
class DividesByTheLayersAfterTheFirst(Clockwork):
    def choose(self):
        return super().choose() * 5 // (self.num_layers - 1) // 5 * (self.num_layers - 1)


# --- same walk, random numbers ------------------------------------------------------------------------


@breaks("same walk", "chose different layers", "the scores alone")
@breaks("random numbers", "a global random generator", r"random\.Random\(seed\)")
@breaks("state", "chose other layers than in one go", ".")
class DrawsItsTargets(Clockwork):
    def choose(self):
        return random.randrange(self.num_layers)


@breaks("same walk", "chose different layers", "the scores alone")
@breaks("state", "chose other layers than in one go", ".")
class SharesItsClock(Clockwork):
    clock: ClassVar = [0]

    def choose(self):
        self.clock[0] += 1
        return self.clock[0] // 7 % self.num_layers


@breaks("random numbers", "a global random generator", r"random\.Random\(seed\)")
class DrawsForNothing(Clockwork):
    def choose(self):
        random.random()
        return super().choose()


@breaks("random numbers", "a global random generator", r"random\.Random\(seed\)")
class DrawsFromTorch(Clockwork):
    def choose(self):
        torch.rand(())
        return super().choose()


@breaks("random numbers", "a global random generator", r"random\.Random\(seed\)")
class DrawsFromNumpy(Clockwork):
    def choose(self):
        np.random.rand(700)  # more than the generator holds
        return super().choose()


@subtle("all that is looked at is the generator's block of 624 numbers, not the place in it")
class DrawsAFewFromNumpy(Clockwork):
    def choose(self):
        if self.steps == 1:
            np.random.seed(0)
            np.random.rand(1)
        elif self.steps == 2:
            np.random.rand(1)
        return super().choose()


@subtle("the walk before left the same seed")
class SeedsTheGlobalGenerator(Clockwork):
    def choose(self):
        random.seed(3)
        return super().choose()


@subtle("no rule about `alignment`; a run finds out")
class ListensToAnUnknownScore(Clockwork):
    alignment = "cosinus"


# --- state --------------------------------------------------------------------------------------------


@breaks("state", "resumed from its state in the middle, it chose other layers", "whatever changes")
class ForgetsItsClock(Clockwork):
    names = ("num_layers", "target", "reason")


@breaks("state", "KeyError: 'num_layers'", "whatever changes")
class ForgetsTheNumberOfLayers(Clockwork):
    names = ("target", "reason", "steps")


@breaks("state", "Tensor is not JSON serializable", "numbers and text")
class SavesATensor(Clockwork):
    names = (*Clockwork.names, "history")

    def __init__(self, num_layers):
        super().__init__(num_layers)
        self.history = torch.zeros(3)


@breaks("state", "KeyError: ", "numbers and text")
class SavesAMappingByNumber(Clockwork):
    names = (*Clockwork.names, "visits")

    def __init__(self, num_layers):
        super().__init__(num_layers)
        self.visits = dict.fromkeys(range(num_layers), 0)

    def choose(self):
        target = super().choose()
        self.visits[target] += 1
        return target


def _broken(factory, **arguments):
    """What check_scheduler says: for each broken rule what was seen, and the remedy."""
    with pytest.raises(ContractError) as caught:
        check_scheduler(factory, **arguments)
    return dict(_entry(text) for text in re.split("^- ", str(caught.value), flags=re.M)[1:])


def _entry(text):
    rule, rest = text.rstrip().split(": ", 1)
    return rule, tuple(rest.rsplit("\n  ", 1))


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in VIOLATIONS])
def test_a_violation_is_named_with_what_was_seen_and_a_remedy(kind):
    messages, expected = _broken(kind), VIOLATIONS[kind]
    assert set(messages) == set(expected)
    for rule, (seen, remedy) in expected.items():
        assert re.search(seen, messages[rule][0])
        assert re.search(remedy, messages[rule][1])


@pytest.mark.parametrize("kind", SUBTLE)
def test_a_subtle_violation_is_seen_too(kind):
    with pytest.raises(ContractError):
        check_scheduler(kind)


def test_every_rule_has_a_violation_that_it_finds():
    assert {rule for rules in VIOLATIONS.values() for rule in rules} == set(RULES)


def test_a_correct_scheduler_keeps_all_rules():
    report = check_scheduler(Clockwork)
    assert tuple(result.rule for result in report.results) == RULES
    assert not report.failures


@pytest.mark.parametrize("name", installed_plugins().registries["schedulers"].names())
def test_every_scheduler_that_is_installed_keeps_all_rules(name):
    check_scheduler(installed_plugins().get("schedulers", name), options=REQUIRED.get(name))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cka", {"threshold": 0.3, "ema": 0.5, "max_time_per_layer": None, "start": "first"}),
        ("cka", {"max_time_per_layer": "7st", "measure_every": 3, "unbiased": True}),
        ("cosine", {"snap_to_last_at": 4, "threshold": 0.9, "start": "first"}),
        ("plateau", {"patience": "5st", "start": "first"}),
        ("linear", {"duration": "100st"}),
        ("random", {"every": "3st", "seed": 5}),
    ],
)
def test_schedulers_that_move_in_other_ways_keep_all_rules_too(name, options):
    check_scheduler(installed_plugins().get("schedulers", name), options=options)


@pytest.mark.parametrize("num_layers", [1, 2, 24])
def test_the_teacher_may_have_any_number_of_layers(num_layers):
    check_scheduler(installed_plugins().get("schedulers", "cka"), num_layers=num_layers)


@pytest.mark.parametrize(
    ("name", "options"),
    [("steps", {"at": {"0ep": 1, "3ep": 4, "100st": 6}}), ("fixed", {"layer": 3}), ("linear", {"start": 3})],
)
def test_options_may_name_a_layer_that_the_teacher_has(name, options):
    check_scheduler(installed_plugins().get("schedulers", name), options=options)


class Timed(Clockwork):
    """Has a setting that JSON cannot hold, and the inherited state_dict."""

    state_dict = DifficultyScheduler.state_dict

    def __init__(self, num_layers, *, duration: Duration = SIX_EPOCHS):
        super().__init__(num_layers)
        self.duration = duration

    def choose(self):
        steps = self.duration.in_steps(self.run.steps_per_epoch)
        return min(self.steps * self.num_layers // steps, self.num_layers - 1)


class TimedAndMore(Timed):
    def __init__(self, num_layers, *, more: int = 0, **options):
        super().__init__(num_layers, **options)


def test_the_inherited_state_dict_is_enough():
    check_scheduler(Timed)


def test_the_inherited_state_dict_is_enough_where_a_parent_takes_options():
    check_scheduler(TimedAndMore)


class Strange:
    """No type that pydantic knows."""


def asks_for_a_strange_option(num_layers, *, way: Strange = None):
    return Clockwork(num_layers)


def takes_no_layers():
    return Clockwork(6)


def test_an_annotation_that_pydantic_refuses_is_named():
    (seen, _) = _broken(asks_for_a_strange_option)["targets"]
    assert "Strange" in seen


def test_a_factory_that_takes_no_layers_is_named():
    (seen, _) = _broken(takes_no_layers)["targets"]
    assert "too many positional arguments" in seen


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (asks_for_a_strange_option, {}),
        (takes_no_layers, {}),
        (Clockwork, {"evry": 3}),
        (Clockwork, {"every": "often"}),
    ],
)
def test_a_factory_or_options_that_do_not_work_are_not_blamed_on_the_target(factory, options):
    (_, remedy) = _broken(factory, options=options)["targets"]
    assert "0-based" not in remedy


def test_wrong_options_are_named():
    assert "evry" in _broken(Clockwork, options={"evry": 3})["targets"][0]
    assert "every" in _broken(Clockwork, options={"every": "often"})["targets"][0]


def test_global_random_numbers_are_left_alone():
    before = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1:3]
    check_scheduler(installed_plugins().get("schedulers", "random"))
    after = random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1:3]
    assert before[:2] == after[:2]
    assert before[2][1] == after[2][1]
    assert (before[2][0] == after[2][0]).all()
