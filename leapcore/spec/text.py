"""A spec's text: reading YAML, overriding keys, and errors that name file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from leapcore.errors import LeapcoreError, SpecError, did_you_mean
from leapcore.recipes import recipe_names, recipe_text
from leapcore.spec.validation_errors import UNKNOWN, KeyPath, error_messages, remedy_for

# Python's own errors come from values such as 2024-13-45, or from a thousand brackets.
NOT_YAML = (YAMLError, ValueError, RecursionError)
MOST_VALUES = 10_000
SPEC = "spec.yaml"  # in a run's folder


class SpecText(NamedTuple):
    """A spec as the user wrote it.

    Attributes:
        label: The file's name in messages.
        keys: The parsed mapping, which knows its lines.
        overridden: Paths of keys that came from the command line instead.
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

    def located(self, path: KeyPath, message: str) -> str:
        """A message with the place and the key that it is about before it."""
        return ": ".join(filter(None, [self.where(path), ".".join(map(str, path)), message]))


def read_text(source: str) -> SpecText:
    """Read a YAML file or a recipe.

    Raises:
        SpecError: It is not there, or not a mapping in YAML.
    """
    if Path(source).is_file():
        label, content = source, _content(Path(source))
    elif source in recipe_names():
        label, content = f"recipe {source}", recipe_text(source)
    elif (inner := Path(source) / SPEC).is_file():
        raise SpecError(f"'{source}' is a run's folder", f"Its spec: leapcore run {inner}")
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
        raise SpecError(
            f"{label}{line}: this is not YAML: {problem}", "Correct that line or the one before it."
        ) from error
    if not isinstance(keys, CommentedMap):
        raise SpecError(
            f"{label}: a spec is a mapping of sections", "Start from: leapcore recipes copy quickstart"
        )
    _check_values(label, keys)
    return SpecText(label, keys, set())


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: cannot be read: {error}", "A spec is a text file in UTF-8.") from error
    except OSError as error:
        raise SpecError(
            f"{path}: cannot be read: {error.strerror}", "Mend its permissions, or name another file."
        ) from error


def assignment(flag: str, text: str, example: str) -> tuple[str, Any]:
    """The key and the value, which is YAML, of a command line's ``flag key=value``.

    Raises:
        SpecError: It has another form, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise SpecError(f"{flag} {text}: not of the form key=value", f"Write {flag} {example}.")
    try:
        parsed = YAML(typ="safe").load(value)
    except NOT_YAML as error:
        raise SpecError(f"{flag} {text}: the value is not YAML", "Quote it.") from error
    _check_values(f"{flag} {key}", parsed)
    return key, parsed


def _check_values(label: str, root: Any) -> None:
    """Refuse tags, which mean nothing here, and aliases that stand for more than a spec can hold."""
    pending, seen = [root], 0
    while pending:
        node, seen = pending.pop(), seen + 1
        tag = getattr(getattr(node, "tag", None), "value", None)  # of what is not plain YAML
        if tag is not None:
            raise SpecError(f"{label}: a spec has no tags such as {tag}", "Write the value alone.")
        if seen > MOST_VALUES:
            raise SpecError(
                f"{label}: more than {MOST_VALUES:,} values once its aliases (*name) are written out",
                "Write out what they stand for, without an alias inside itself.",
            )
        if isinstance(node, dict):
            pending.extend(node.values())
        elif isinstance(node, (list, tuple, set)):
            pending.extend(node)


def override(text: SpecText, change: str) -> None:
    """Apply ``a.b=value`` to the mapping."""
    path, value = assignment("--set", change, "section.key=value")
    *sections, last = path.split(".")
    node = text.keys
    for section in sections:
        node = node.setdefault(section, CommentedMap())
        if not isinstance(node, dict):
            raise SpecError(f"--set {change}: '{section}' is a value, not a section", "Set the value itself.")
    node[last] = value
    text.overridden.add((*sections, last))


def spec_error(
    text: SpecText,
    model: type[BaseModel],
    prefix: KeyPath,
    error: ValidationError,
    remedy: str = "",
    unknown: str = UNKNOWN,
) -> LeapcoreError:
    """All of pydantic's errors about a text, one line each.

    Args:
        text: The text that was validated.
        model: The section that it should be.
        prefix: Where in the text this section is.
        error: pydantic's errors.
        remedy: What to do; if empty, what the key means.
        unknown: The message for a key that is not known.
    """
    messages = error_messages(model, error, unknown)
    lines = [text.located(prefix + path, message) for path, message in messages.items()]
    return SpecError("\n".join(lines), remedy or remedy_for(model, messages, prefix))
