"""A spec's text: reading YAML, overriding keys, and errors that name file, line and key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from leapcore.errors import LeapcoreError, SpecError, did_you_mean
from leapcore.recipes import recipe_names, recipe_text

# Python's own errors come from values such as 2024-13-45, or from a thousand brackets.
NOT_YAML = (YAMLError, ValueError, RecursionError)
MOST_VALUES = 10_000

KeyPath = tuple[str | int, ...]


class SpecText(NamedTuple):
    """A spec as the user wrote it.

    Attributes:
        label: How messages call the file.
        keys: The parsed mapping, which knows its lines.
        overridden: Key paths that came from the command line instead.
    """

    label: str
    keys: CommentedMap
    overridden: set[KeyPath]

    def where(self, path: KeyPath) -> str:
        """``file:line`` of a key, or of the closest key around it that is there."""
        if any(path[: len(own)] == own for own in self.overridden):
            return "--set"
        if not self.keys.lc.data:  # put together by a program
            return self.label
        node, line = self.keys, 0
        for key in path:
            if not isinstance(node, CommentedMap) or key not in node:
                break
            line = node.lc.data[key][0] if key in (node.lc.data or {}) else line
            node = node[key]
        return f"{self.label}:{line + 1}"

    def fault(self, path: KeyPath, problem: str) -> str:
        """One line: where, which key, what is wrong."""
        return ": ".join(filter(None, [self.where(path), ".".join(map(str, path)), problem]))


def read_text(source: str) -> SpecText:
    """Read a YAML file or a recipe.

    Raises:
        SpecError: It is not there, or not a mapping in YAML.
    """
    if Path(source).is_file():
        label, content = source, _content(Path(source))
    elif source in recipe_names():
        label, content = f"recipe {source}", recipe_text(source)
    else:
        raise SpecError(
            f"'{source}' is neither a file nor a recipe",
            did_you_mean(source, [*recipe_names(), *map(str, Path(source).parent.glob("*.y*ml"))])
            + " Recipes are listed by: leapcore recipes",
        )
    try:
        keys = YAML().load(content)
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or f"{error}".split("\n")[0]
        raise SpecError(f"{label}{line}: this is not YAML: {problem}", "Mend that line.") from error
    if not isinstance(keys, CommentedMap):
        raise SpecError(
            f"{label}: a spec is a mapping of sections", "Start from: leapcore recipes copy quickstart"
        )
    _check_values(label, keys)
    return SpecText(label, keys, set())


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", "A spec is a text file in UTF-8.") from error


def assignment(flag: str, text: str, example: str) -> tuple[str, Any]:
    """The key and the value, which is YAML, of a command line's ``flag key=value``.

    Raises:
        SpecError: It has another form, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise SpecError(f"{flag} {text}: not of the form key=value", f"Write {flag} {example}.")
    try:
        found = YAML(typ="safe").load(value)
    except NOT_YAML as error:
        raise SpecError(f"{flag} {text}: the value is not YAML", "Quote it.") from error
    _check_values(f"{flag} {key}", found)
    return key, found


def _check_values(label: str, root: Any) -> None:
    """Refuse tags, which mean nothing here, and aliases that stand for more than a spec can hold."""
    waiting, seen = [root], 0
    while waiting:
        node, seen = waiting.pop(), seen + 1
        tag = getattr(getattr(node, "tag", None), "value", None)  # of what is not plain YAML
        if tag is not None:
            raise SpecError(f"{label}: a spec has no tags such as {tag}", "Write the value alone.")
        if seen > MOST_VALUES:
            raise SpecError(
                f"{label}: more than {MOST_VALUES:,} values once its aliases (*name) are written out",
                "Write out what they stand for, without an alias inside itself.",
            )
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, (list, tuple, set)):
            waiting.extend(node)


def override(text: SpecText, wanted: str) -> None:
    """Apply ``a.b=value`` to the mapping."""
    path, value = assignment("--set", wanted, "section.key=value")
    *sections, last = path.split(".")
    node = text.keys
    for section in sections:
        node = node.setdefault(section, CommentedMap())
        if not isinstance(node, dict):
            raise SpecError(f"--set {wanted}: '{section}' is a value, not a section", "Set the value itself.")
    node[last] = value
    text.overridden.add((*sections, last))


def spec_error(
    text: SpecText,
    model: type[BaseModel],
    prefix: KeyPath,
    error: ValidationError,
    remedy: str = "The keys and their meaning: leapcore schema --markdown",
) -> LeapcoreError:
    """All faults that pydantic found, one line each; branches of a union are told together.

    Args:
        text: What was read.
        model: What it should be.
        prefix: Where in the text this model belongs.
        error: The faults.
        remedy: What to do.
    """
    problems: dict[KeyPath, list[str]] = {}
    for detail in error.errors():
        path = _key_path(model, detail["loc"])
        problems.setdefault(path, []).append(_problem(model, path, detail))
    faults = [text.fault(prefix + path, "; or ".join(dict.fromkeys(p))) for path, p in problems.items()]
    return SpecError("\n".join(faults), remedy)


def _problem(model: type[BaseModel], path: KeyPath, detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown key. {did_you_mean(str(path[-1]), _fields_at(model, path[:-1]))}"
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] in ("model_type", "dict_type"):
        return f"should be a section of keys, got {detail['input']!r}"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    told = "got" in message or (detail["type"] == "value_error" and isinstance(detail["input"], dict))
    return message if told else f"{message}, got {detail['input']!r}"


def _key_path(model: type[BaseModel], location: Iterable[str | int]) -> KeyPath:
    """The part of pydantic's location that names keys of the spec, without the branches of unions."""
    path: list[str | int] = []
    for part in location:
        at = _annotation_at(model, tuple(path))
        names_key = at is model or _is_mapping(at) or hasattr(at, "model_fields") or isinstance(part, int)
        if not names_key or part == "[key]":
            break
        path.append(part)
    return tuple(path)


def _fields_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the section at this path takes; none where it is a plain value."""
    return list(getattr(_annotation_at(model, path), "model_fields", {}))


def _annotation_at(model: type[BaseModel], path: KeyPath) -> Any:
    """What belongs at this path: a section, a mapping of sections, or the type of a plain value."""
    current: Any = model
    for part in path:
        if _is_mapping(current):
            current = get_args(current)[1]
            continue
        field = getattr(current, "model_fields", {}).get(part)
        current = _without_none(field.annotation) if field else None
    return current


def _is_mapping(annotation: Any) -> bool:
    values = get_args(annotation)[1:] if get_origin(annotation) is dict else ()
    return any(hasattr(value, "model_fields") for value in values)


def _without_none(annotation: Any) -> Any:
    """``Section`` where the annotation is ``Section | None``."""
    branches = [branch for branch in get_args(annotation) if hasattr(branch, "model_fields")]
    return annotation if _is_mapping(annotation) or len(branches) != 1 else branches[0]
