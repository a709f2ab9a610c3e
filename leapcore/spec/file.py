"""Reading a spec, from YAML or from code, with errors that name file, line and key."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap

from leapcore.errors import SpecError, UnknownNameError
from leapcore.plugins.builtins import READ_BY_TIMM
from leapcore.plugins.loader import installed_plugins
from leapcore.plugins.registry import Factory
from leapcore.spec import BackboneSpec, CurriculumSpec, Spec
from leapcore.spec.options import options_model, plain_options
from leapcore.spec.paths import data_root, ground_truth_path, image_folder, weights_path
from leapcore.spec.text import SpecText, override, read_text, spec_error
from leapcore.spec.validation_errors import KeyPath

logger = logging.getLogger(__name__)


def load_spec(
    source: str | Path | Mapping[str, Any] | Spec, overrides: Sequence[str] = (), *, files: bool = True
) -> Spec:
    """Read a spec and check everything in it that needs no model and no image.

    Args:
        source: A YAML file, or the name of a recipe that ships with leapcore; or in code, a mapping of the
            same keys, or a spec.
        overrides: ``"section.key=value"`` each, applied over it.
        files: Whether the files that it names must be there.

    Raises:
        SpecError: The file cannot be read, or something in it is wrong; all faults are listed.
        UnknownNameError: It names a plugin's part that is not there.
        WeightsError, DataError: It names files that are not there.

    Example:
        >>> spec = load_spec("quickstart", ["train.duration=10ep", "curriculum.threshold=0.9"])
        >>> spec.train.duration, spec.curriculum.options["threshold"]
        (Duration(amount=10, unit='ep'), 0.9)
    """
    if isinstance(source, Spec):
        source = source.model_dump(mode="json")
    if isinstance(source, Mapping):
        text = SpecText("", CommentedMap(copy.deepcopy(dict(source))), set())
        return spec_of(text, overrides, files=files)
    return spec_of(read_text(str(source)), overrides, files=files)


def spec_of(text: SpecText, overrides: Sequence[str] = (), *, files: bool = True) -> Spec:
    """As :func:`load_spec`, of a text that was read before, or put together."""
    for change in overrides:
        override(text, change)
    for path in [path for path in text.overridden if path[-2:] == ("curriculum", "scheduler")]:
        _drop_foreign_options(text, path[:-1])
    try:
        spec = Spec.model_validate(text.keys)
    except SpecError as error:  # which knows no lines
        if isinstance(error.__cause__, ValidationError):
            raise spec_error(text, Spec, (), error.__cause__) from error
        raise
    checked = _with_checked_names(spec, text)
    if files:
        _require_files(checked)
    return checked


def log_warnings(spec: Spec) -> None:
    """Log what is allowed in a spec and seldom meant."""
    for cause_and_remedy in spec.warnings:
        logger.warning("%s. %s", *cause_and_remedy)


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
    """Check every name that plugins provide; fill in the schedulers' own defaults."""
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
    listeners = {name: _listener(text, name, options) for name, options in spec.listeners.items()}
    return spec.model_copy(update={"curriculum": curriculum, "teachers": teachers, "listeners": listeners})


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
    owner = f"the scheduler '{curriculum.scheduler}'"
    options = _checked_options(factory, curriculum.options, text, path, owner)
    return CurriculumSpec(scheduler=curriculum.scheduler, **options)


def _listener(text: SpecText, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A listener's options, checked, if all that it needs is installed."""
    path = ("listeners", name)
    _require(text, path, "listeners", name)
    factory = installed_plugins().get("listeners", name)
    if needs := getattr(factory, "needs", None):
        module, install = needs
        package = find_spec(module)
        if package is None or package.origin is None:  # a folder of that name is not the package
            raise SpecError(
                text.located(path, f"the package '{module}' is not installed"),
                f"Install it with: {install}. Or leave this listener out.",
            )
    return _checked_options(factory, options, text, path, f"the listener '{name}'")


def _checked_options(
    factory: Factory, options: dict[str, Any], text: SpecText, path: KeyPath, owner: str
) -> dict[str, Any]:
    try:
        return plain_options(factory, options)
    except ValidationError as error:
        unknown = f"{owner} has no such option"
        raise spec_error(text, options_model(factory), path, error, unknown=unknown) from error


def _require_files(spec: Spec) -> None:
    for backbone in (*_teachers(spec).values(), spec.student):
        weights_path(backbone.weights)
    if spec.data.source == "folder":
        image_folder("data.train", spec.data.train)
        image_folder("data.val", spec.data.val)
    if spec.data.source.partition("/")[0] in READ_BY_TIMM:
        data_root(spec.data.source, spec.data.root)
    for folder in spec.evaluate.retrieval:
        ground_truth_path(Path(folder))


def _scheduler(text: SpecText, name: str, path: KeyPath) -> Factory:
    _require(text, (*path, "scheduler"), "schedulers", name)
    return installed_plugins().get("schedulers", name)


def _require(text: SpecText, path: KeyPath, kind: str, name: str) -> None:
    try:
        installed_plugins().require(kind, name)
    except UnknownNameError as error:
        raise UnknownNameError(text.located(path, error.cause), error.remedy) from error
