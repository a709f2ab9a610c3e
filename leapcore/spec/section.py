"""The base class of a spec's sections, and types that several of them use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from leapcore.core.duration import Duration, duration_pattern


def _positive(duration: Duration) -> Duration:
    if duration.amount == 0:
        raise ValueError("a duration of at least one epoch or step is needed, got 0")
    return duration


def interval(value: object) -> Duration | Literal["never"]:
    """Read a length of training or of time, or ``never``."""
    return "never" if value == "never" else _positive(Duration.parse(value, minutes=True))


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


FileName = Annotated[str, BeforeValidator(_as_text)]  # in code also a Path
Period = Annotated[Duration, AfterValidator(_positive), WithJsonSchema(duration_pattern("ep", "st", least=1))]
Moment = Period | Literal["end", "never"]
RUN_NAME, SHORT_NAME = r"^\w[\w.\-]*$", r"^\w[\w\-]*$"
PATTERNS_IN_WORDS = {
    RUN_NAME: "letters, digits, '_', '.' or '-', the last two not at its start",
    SHORT_NAME: "letters, digits, '_' or '-', the last one not at its start",
}
Name = Annotated[str, Field(pattern=SHORT_NAME)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A mapping's values, each under its keys joined by dots."""
    for key, value in mapping.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from flat(value, path + ".")
        else:
            yield path, value
