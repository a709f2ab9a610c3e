"""The contract of a difficulty scheduler."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from leapcore.core.alignment import ALIGNMENTS
from leapcore.core.duration import RunLength
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.errors import did_you_mean
from leapcore.spec.options import checked_options
from leapcore.testing.report import Broken, ContractReport, Rule, check_rules, subject_of

STEPS, EPOCH = 240, 20


@dataclass
class SchedulerTrial:
    """A scheduler on trial.

    Attributes:
        build: Makes one for so many layers.
        scheduler: One for ``num_layers``.
        num_layers: How many layers the teacher has.
    """

    build: Callable[[int], DifficultyScheduler]
    scheduler: DifficultyScheduler
    num_layers: int


def check_scheduler(
    factory: Callable[..., Any], *, num_layers: int = 6, options: Mapping[str, Any] | None = None
) -> ContractReport:
    """Check that a scheduler keeps every rule that leapcore relies on.

    It is taken through a run of 12 epochs of 20 steps, with an alignment that rises and falls.

    Args:
        factory: What the plugin registers: ``(num_layers, *, ...) -> DifficultyScheduler``.
        num_layers: How many layers the teacher has.
        options: The scheduler's own, as a spec's ``curriculum`` gives them.

    Returns:
        Every rule, with the time that its check took.

    Raises:
        ContractError: Rules are broken; it names each, what was seen, and the remedy.
    """
    report = report_on_scheduler(factory, num_layers=num_layers, options=options)
    report.require()
    return report


def report_on_scheduler(
    factory: Callable[..., Any], *, num_layers: int = 6, options: Mapping[str, Any] | None = None
) -> ContractReport:
    """The same without raising; arguments as for :func:`check_scheduler`."""

    def build(layers: int) -> DifficultyScheduler:
        scheduler = factory(layers, **_checked(factory, options or {}))
        if not isinstance(scheduler, DifficultyScheduler):
            raise Broken(f"the factory returns a {type(scheduler).__name__}", "Return a DifficultyScheduler.")
        scheduler.run = RunLength(STEPS, EPOCH)
        return scheduler

    return check_rules(
        subject_of(factory), RULES, lambda: SchedulerTrial(build, build(num_layers), num_layers)
    )


def _checked(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        inspect.signature(factory).bind_partial(1)
        return checked_options(factory, dict(options))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise Broken(
            f"it does not take the options {dict(options)}: {'; '.join(faults)}",
            "Give options that it takes: options=…, or the class attribute samples.",
        ) from error
    except (TypeError, PydanticSchemaGenerationError) as error:
        raise Broken(
            str(error).splitlines()[0],
            "Write it as (num_layers, *, option=…), with annotations that pydantic knows.",
        ) from error


def _targets_are_layers(trial: SchedulerTrial) -> None:
    alignment = trial.scheduler.alignment
    if alignment is not None and alignment not in ALIGNMENTS:
        raise Broken(f"there is no alignment '{alignment}'", did_you_mean(alignment, ALIGNMENTS))
    for target, _ in _walk(trial.scheduler, STEPS):
        if not isinstance(target, int) or not 0 <= target < trial.num_layers:
            raise Broken(f"the target is {target!r}, for a teacher of {trial.num_layers} layers")


def _moves_are_reported(trial: SchedulerTrial) -> None:
    before: int | None = None
    for target, moved in _walk(trial.scheduler, STEPS):
        if before is not None and moved is not (target != before):
            raise Broken(f"the target went from {before} to {target}, and the answer was {moved!r}")
        before = target


def _one_layer_is_enough(trial: SchedulerTrial) -> None:
    try:
        scheduler = trial.build(1)
    except ValueError:
        return  # its options name a layer that such a teacher does not have
    if any(target != 0 for target, _ in _walk(scheduler, STEPS)):
        raise Broken("with a teacher of one layer, another one was chosen")


def _same_scores_same_walk(trial: SchedulerTrial) -> None:
    if list(_walk(trial.scheduler, STEPS)) != list(_walk(trial.build(trial.num_layers), STEPS)):
        raise Broken("two schedulers with the same scores chose different layers")


def _leaves_random_numbers_alone(trial: SchedulerTrial) -> None:
    kept = random.getstate(), np.random.get_state()
    random.seed(STEPS)  # unusual, so that a scheduler's own seed makes a difference
    np.random.seed(STEPS)
    torch.manual_seed(STEPS)
    before = _random_states()
    try:
        list(_walk(trial.scheduler, STEPS))
        if _random_states() != before:
            raise Broken("it draws from a global random generator, or seeds it")
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])


def _state_is_all(trial: SchedulerTrial) -> None:
    whole = list(_walk(trial.build(trial.num_layers), STEPS))
    half = list(_walk(trial.scheduler, STEPS // 2))
    state = json.loads(json.dumps(trial.scheduler.state_dict()))
    resumed = trial.build(trial.num_layers)
    resumed.load_state_dict(state)
    rest = list(_walk(resumed, STEPS, first=STEPS // 2))
    if half + rest != whole:
        raise Broken("resumed from its state in the middle, it chose other layers than in one go")


def _walk(scheduler: DifficultyScheduler, steps: int, first: int = 0) -> Any:
    """The target of every step, and whether it moved after it."""
    if first == 0:
        scores = [_score(layer) for layer in range(scheduler.num_layers)]
        scheduler.start(scores if scheduler.wants_calibration else None)
        yield scheduler.target, False
    for step in range(first, steps):
        answers = [scheduler.step(_score(step) if scheduler.wants_score else None)]
        if (step + 1) % EPOCH == 0:
            answers.append(scheduler.end_epoch())
        if any(not isinstance(answer, bool) for answer in answers):
            raise Broken(f"step or end_epoch answered {answers}, not True or False")
        yield scheduler.target, any(answers)


def _score(step: int) -> float:
    """Alignments that rise and fall, between 0.05 and 0.99."""
    return 0.05 + 0.94 * (step * 7 % 31) / 30


def _random_states() -> tuple[Any, ...]:
    state: Any = np.random.get_state()
    return random.getstate(), state[1].tolist(), state[2], torch.get_rng_state().tolist()


RULES = (
    Rule("targets", "target is the 0-based index of one of num_layers layers.", _targets_are_layers),
    Rule("moves", "step and end_epoch answer whether the target changed.", _moves_are_reported),
    Rule("one layer", "A teacher may have a single layer.", _one_layer_is_enough),
    Rule("same walk", "Decide by the scores alone: all processes must agree.", _same_scores_same_walk),
    Rule("random numbers", "Use a random.Random(seed) of your own.", _leaves_random_numbers_alone),
    Rule("state", "state_dict holds whatever changes, as numbers and text.", _state_is_all),
)  # fmt: skip
