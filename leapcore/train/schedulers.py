"""Building a difficulty scheduler by the name that plugins register it under."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from leapcore.core.duration import RunLength
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.errors import SpecError
from leapcore.plugins.loader import installed_plugins
from leapcore.spec.options import checked_options, options_model
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
        ValueError: An option names a layer that is none.
    """
    factory = installed_plugins().get("schedulers", name)
    try:
        checked = checked_options(factory, options)
    except ValidationError as error:
        model = options_model(factory)
        problems = error_messages(model, error).items()
        told = [f"the scheduler '{name}': {'.'.join(map(str, path))}: {said}" for path, said in problems]
        raise SpecError("\n".join(told), f"Its options: {', '.join(model.model_fields)}.") from error
    scheduler: DifficultyScheduler = factory(num_layers, **checked)
    if run is not None:
        scheduler.run = run
    return scheduler
