"""Lengths of training with their unit: ``5ep`` is five epochs, ``2000st`` two thousand steps.

Where a length is one of time, ``10min`` is ten minutes.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_FORM = re.compile(r"(\d+)\s*(ep|st|min)")


def duration_pattern(*units: str, least: int = 0) -> dict[str, str]:
    """The JSON schema of a duration's text, in one of these units, with an amount of at least 0 or 1."""
    amount = r"0*[1-9]\d*" if least else r"\d+"
    return {"type": "string", "title": "duration", "pattern": rf"^{amount}\s*({'|'.join(units)})$"}


class RunLength(NamedTuple):
    """How long a run is.

    Attributes:
        total_steps: Optimizer steps of the whole run.
        steps_per_epoch: Optimizer steps of an epoch.

    Example:
        >>> RunLength(total_steps=Duration(10, "ep").in_steps(500), steps_per_epoch=500)
        RunLength(total_steps=5000, steps_per_epoch=500)
    """

    total_steps: int
    steps_per_epoch: int


class Duration(NamedTuple):
    """A length of training.

    Attributes:
        amount: How many units, at least 0.
        unit: ``"ep"`` (epochs), ``"st"`` (optimizer steps) or ``"min"`` (minutes).

    Example:
        >>> warmup = Duration.parse("5ep")
        >>> warmup, str(warmup)
        (Duration(amount=5, unit='ep'), '5ep')
        >>> warmup.in_steps(steps_per_epoch=500)
        2500
    """

    amount: int
    unit: str

    @classmethod
    def parse(cls, text: object, *, minutes: bool = False) -> Duration:
        """Read ``"5ep"`` or ``"2000st"``, and ``"10min"`` where minutes make sense.

        Args:
            text: A text, or a duration, which is returned as it is.
            minutes: Whether minutes make sense.

        Raises:
            ValueError: The text is no duration; the message shows the forms.
        """
        if isinstance(text, Duration):
            return text
        match = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None or (match[2] == "min" and not minutes):
            forms = "'5ep' (epochs) or '2000st' (steps)"
            if minutes:
                forms = "'5ep' (epochs), '2000st' (steps) or '10min' (minutes)"
            raise ValueError(f"a duration is written like {forms}, got {text!r}")
        return cls(int(match[1]), match[2])

    def in_steps(self, steps_per_epoch: int) -> int:
        """The same length in optimizer steps.

        Raises:
            ValueError: It is in minutes.
        """
        if self.unit == "min":
            raise ValueError(f"{self} is a time, not a number of steps")
        return self.amount * (steps_per_epoch if self.unit == "ep" else 1)

    def __str__(self) -> str:
        return f"{self.amount}{self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let pydantic models hold durations, written to YAML and JSON as text."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """The text's form, for editors."""
        return duration_pattern("ep", "st")
