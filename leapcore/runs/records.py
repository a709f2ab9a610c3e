"""Records with types, made of what a file holds."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def as_record(kind: type[T], content: dict[str, Any] | None) -> T | None:
    """An object as a dataclass, None where it is not one.

    Keys that the class does not know are left out; those that are missing take its defaults.

    Args:
        kind: The dataclass.
        content: What a file holds; None where it holds nothing.
    """
    from pydantic import ValidationError

    hashable: Any = kind  # which mypy does not see in a type variable
    adapter: TypeAdapter[T] = _adapter(hashable)
    try:
        return None if content is None else adapter.validate_python(content)
    except ValidationError:
        return None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
