"""What moves while a run trains: the target, by its scheduler, and the learning rate, by its schedule."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from leapcore.core.duration import RunLength
from leapcore.core.lr import LrSchedule, RestartingCosine, SegmentWarmup, WarmupConstant, WarmupCosine
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.errors import SpecError
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import CurriculumSpec
from leapcore.spec.options import checked_options, options_model
from leapcore.spec.training import OptimizerSpec
from leapcore.spec.validation_errors import error_messages


def build_scheduler(
    name: str, num_layers: int, *, run: RunLength | None = None, **options: Any
) -> DifficultyScheduler:
    """Build a scheduler from what a spec's ``curriculum`` section says.

    Args:
        name: As plugins register it: ``"cka"``, ``"linear"``, …
        num_layers: How many layers the teacher has.
        run: The run's length, for schedulers whose pace depends on it.
        options: Its options, as in a spec: ``threshold=0.9, max_time_per_layer="5ep"``.

    Raises:
        UnknownNameError: No plugin registers it.
        SpecError: An option is unknown or wrong.
        ValueError: An option names a layer that does not exist.

    Example:
        >>> from leapcore import RunLength, build_scheduler
        >>> scheduler = build_scheduler("linear", 12, run=RunLength(24, steps_per_epoch=4))
        >>> scheduler.start(None)
        >>> [scheduler.step(None) for _ in range(3)], scheduler.target
        ([False, True, False], 1)
    """
    factory = installed_plugins().get("schedulers", name)
    try:
        checked = checked_options(factory, options)
    except ValidationError as error:
        model = options_model(factory)
        problems = error_messages(model, error).items()
        lines = [f"the scheduler '{name}': {'.'.join(map(str, path))}: {fault}" for path, fault in problems]
        raise SpecError("\n".join(lines), f"Its options: {', '.join(model.model_fields)}.") from error
    scheduler: DifficultyScheduler = factory(num_layers, **checked)
    if run is not None:
        scheduler.run = run
    return scheduler


def curriculum_scheduler(
    curriculum: CurriculumSpec, num_layers: int, length: RunLength
) -> DifficultyScheduler:
    """The scheduler of a spec's curriculum.

    Raises:
        SpecError: An option names a layer that the teacher does not have.
    """
    try:
        return build_scheduler(curriculum.scheduler, num_layers, run=length, **curriculum.options)
    except ValueError as error:
        raise SpecError(
            f"curriculum.{error}",
            "Name one of these layers; target: layer+last keeps the last one for itself.",
        ) from error


def lr_warmup(spec: OptimizerSpec, run: RunLength) -> int:
    """Steps of the warm-up; LEAP's if left out: 10 epochs, at most a tenth."""
    total, per_epoch = run.total_steps, run.steps_per_epoch
    warmup = spec.warmup.in_steps(per_epoch) if spec.warmup else min(10 * per_epoch, total // 10)
    return min(warmup, total)


def lr_schedule(spec: OptimizerSpec, run: RunLength) -> LrSchedule:
    """The learning rate over the steps of a run, as a share of its peak."""
    total, per_epoch, restart = run.total_steps, run.steps_per_epoch, spec.restart
    warmup = lr_warmup(spec, run)
    if restart is not None and restart.warmup is not None:
        decay = restart.peak_decay or 0.0
        return SegmentWarmup(total, restart.warmup.in_steps(per_epoch), peak_decay=decay)
    if restart is not None:
        options = {} if restart.scale is None else {"scale": restart.scale}
        constant = spec.constant_warmup
        return RestartingCosine(total, warmup, peak=restart.peak, constant_warmup=constant, **options)
    return WarmupConstant(warmup) if spec.schedule == "constant" else WarmupCosine(total, warmup)
