"""Reading a spec from YAML, with errors that name file, line and key."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from leapcore.errors import LeapcoreError, SpecError, UnknownNameError, did_you_mean
from leapcore.files import ground_truth_path, image_folder, weights_path
from leapcore.options import options_model, plain_options
from leapcore.plugins import installed_plugins
from leapcore.recipes import recipe_names, recipe_text
from leapcore.registry import Factory
from leapcore.spec import BackboneSpec, CurriculumSpec, Spec

logger = logging.getLogger(__name__)

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


def load_spec(source: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec and check everything in it that needs no model and no image.

    Args:
        source: A YAML file, or the name of a recipe that ships with leapcore.
        overrides: ``"section.key=value"`` each, applied over the file.

    Raises:
        SpecError: The file cannot be read, or something in it is wrong; all faults are listed.
        UnknownNameError: It names a plugin's part that is not there.
        WeightsError, DataError: It names files that are not there.
    """
    text = _read(str(source))
    for override in overrides:
        _override(text, override)
    for path in [path for path in text.overridden if path[-2:] == ("curriculum", "scheduler")]:
        _drop_foreign_options(text, path[:-1])
    try:
        spec = Spec.model_validate(text.keys)
    except ValidationError as error:
        raise _spec_error(text, Spec, (), error) from error
    return _with_checked_names(spec, text)


def _read(source: str) -> SpecText:
    if Path(source).is_file():
        label, content = source, _content(Path(source))
    elif source in recipe_names():
        label, content = f"recipe {source}", recipe_text(source)
    else:
        raise SpecError(
            f"'{source}' is neither a file nor a recipe",
            did_you_mean(source, recipe_names()) + " Recipes are listed by: leapcore recipes",
        )
    try:
        keys = YAML().load(content)
    except NOT_YAML as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or f"{error}".split("\n")[0]
        raise SpecError(f"{label}{line}: this is not YAML: {problem}", "Mend that line.") from error
    if not isinstance(keys, CommentedMap):
        raise SpecError(f"{label}: a spec is a mapping of sections", "Start from: leapcore recipes copy")
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


def _override(text: SpecText, override: str) -> None:
    """Apply ``a.b=value`` to the mapping."""
    path, value = assignment("--set", override, "section.key=value")
    *sections, last = path.split(".")
    node = text.keys
    for section in sections:
        node = node.setdefault(section, CommentedMap())
        if not isinstance(node, dict):
            raise SpecError(
                f"--set {override}: '{section}' is a value, not a section", "Set the value itself."
            )
    node[last] = value
    text.overridden.add((*sections, last))


def _drop_foreign_options(text: SpecText, path: KeyPath) -> None:
    """Another scheduler from the command line takes over only the options that it knows."""
    section: Any = text.keys
    for key in path:
        section = section[key] if isinstance(section, dict) else None
    if not isinstance(section, dict):  # a later override emptied it, which the spec itself refuses
        return
    factory = _scheduler(text, str(section["scheduler"]), path)
    known = {"scheduler", *options_model(factory).model_fields}
    foreign = [key for key in list(section) if key not in known and (*path, key) not in text.overridden]
    for key in foreign:
        del section[key]
    if foreign:
        logger.warning("scheduler '%s' takes no %s: dropped", section["scheduler"], ", ".join(foreign))


def _with_checked_names(spec: Spec, text: SpecText) -> Spec:
    """Check every name that plugins provide, and the files; fill in the schedulers' own defaults."""
    for path, teacher in _teachers(spec).items():
        _require(text, (*path, "backbone"), "backbones", teacher.backbone)
    _require(text, ("student", "backbone"), "backbones", spec.student.backbone)
    _require(text, ("data", "source"), "datasets", spec.data.source.partition("/")[0])
    _require(text, ("objective", "patch"), "losses", spec.objective.patch)
    curriculum = _with_options(spec.curriculum, text, ("curriculum",))
    teachers = {
        name: teacher.model_copy(
            update={"curriculum": _with_options(teacher.curriculum, text, ("teachers", name, "curriculum"))}
        )
        for name, teacher in spec.teachers.items()
    }
    _require_files(spec)
    return spec.model_copy(update={"curriculum": curriculum, "teachers": teachers})


def _teachers(spec: Spec) -> dict[KeyPath, BackboneSpec]:
    several: dict[KeyPath, BackboneSpec] = {
        ("teachers", name): teacher for name, teacher in spec.teachers.items()
    }
    return several if spec.teacher is None else {("teacher",): spec.teacher}


def _with_options(curriculum: CurriculumSpec | None, text: SpecText, path: KeyPath) -> CurriculumSpec | None:
    """The curriculum with every option of its scheduler, checked."""
    if curriculum is None:
        return None
    factory = _scheduler(text, curriculum.scheduler, path)
    try:
        options = plain_options(factory, curriculum.options)
    except ValidationError as error:
        raise _spec_error(text, options_model(factory), path, error) from error
    return CurriculumSpec(scheduler=curriculum.scheduler, **options)


def _require_files(spec: Spec) -> None:
    for backbone in (*_teachers(spec).values(), spec.student):
        weights_path(backbone.weights)
    if spec.data.source == "folder":
        image_folder("data.train", spec.data.train)
        image_folder("data.val", spec.data.val)
    for folder in spec.evaluate.retrieval:
        ground_truth_path(Path(folder))


def _scheduler(text: SpecText, name: str, path: KeyPath) -> Factory:
    _require(text, (*path, "scheduler"), "schedulers", name)
    return installed_plugins().get("schedulers", name)


def _require(text: SpecText, path: KeyPath, kind: str, name: str) -> None:
    try:
        installed_plugins().require(kind, name)
    except UnknownNameError as error:
        raise UnknownNameError(text.fault(path, error.cause), error.remedy) from error


def _spec_error(
    text: SpecText, model: type[BaseModel], prefix: KeyPath, error: ValidationError
) -> LeapcoreError:
    """All faults that pydantic found, one line each; branches of a union are told together."""
    problems: dict[KeyPath, list[str]] = {}
    for detail in error.errors():
        path = _key_path(model, detail["loc"])
        problems.setdefault(path, []).append(_problem(model, path, detail))
    faults = [text.fault(prefix + path, "; or ".join(dict.fromkeys(p))) for path, p in problems.items()]
    return SpecError("\n".join(faults), "The keys and their meaning: leapcore recipes show quickstart")


def _problem(model: type[BaseModel], path: KeyPath, detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown key. {did_you_mean(str(path[-1]), _fields_at(model, path[:-1]))}"
    if detail["type"] == "missing":
        return "is missing"
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
