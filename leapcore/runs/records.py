"""What was read from a file, as a record with types."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError


class Record(BaseModel):
    """Something that was read: keys that are not known here are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


AnyRecord = TypeVar("AnyRecord", bound=Record)


def as_record(kind: type[AnyRecord], found: dict[str, Any] | None) -> AnyRecord | None:
    """An object as a record, None where it is not one."""
    try:
        return None if found is None else kind.model_validate(found)
    except ValidationError:
        return None
