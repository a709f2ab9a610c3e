"""The values that an option of the objective may have, by the names that a spec gives them."""

from __future__ import annotations

from typing import Any, Literal, get_args

TargetName = Literal["layer", "layer+last", "all"]
Reduction = Literal["mean", "sum"]
ClsHead = Literal["shared", "separate"]
TargetNormName = Literal["final", "parameter-free", "raw"]
CommonGrid = Literal["smaller", "larger"]


def check_choice(option: str, value: str, choices: Any) -> None:
    """Make sure that an option has one of the values of its ``Literal`` type.

    Raises:
        ValueError: It has another one; the message lists them.
    """
    if value not in get_args(choices):
        raise ValueError(f"{option} is {value!r}, but has to be one of: {', '.join(get_args(choices))}")
