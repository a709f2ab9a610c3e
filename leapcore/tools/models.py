"""Models that a user names: a run's folder, a student's, or a timm model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from leapcore.compat import import_timm
from leapcore.errors import WeightsError
from leapcore.models.build import family_of
from leapcore.models.timm_models import architecture
from leapcore.runs.names import BEGUN, EXPORTS, SPEC, STUDENT
from leapcore.spec import BackboneSpec
from leapcore.spec.text import NOT_YAML

_UNKNOWN = (OSError, TypeError, KeyError, ValueError, AttributeError, *NOT_YAML)


class FoundModel(NamedTuple):
    """A model, not built yet.

    Attributes:
        backbone: As a spec would name it.
        image_size: Side of the images that it was trained on, in pixels; 224 where nobody says.
        crop: Share of each side that its evaluation keeps.
    """

    backbone: BackboneSpec
    image_size: int = 224
    crop: float = 0.875


def found_model(model: str, family: str | None = None) -> FoundModel:
    """Find a model.

    Args:
        model: A run's folder, whose student it is; a student's own folder; a folder in timm's local-dir
            format; or a timm name, with its pretrained weights.
        family: Its backbone family; found from its name if None.

    Raises:
        WeightsError: The folder holds no model, or a run without a student.
    """
    path = Path(model)
    if not path.exists():
        if len(path.parts) > 1 and ":" not in model:
            raise WeightsError(
                f"there is no folder '{model}'", "Name a run's or a student's folder, or a model of timm's."
            )
        wanted = BackboneSpec(backbone=family or family_of(model), model=model, weights="pretrained")
        return FoundModel(wanted, *_published_view(model))
    if all((path / name).is_file() for name in BEGUN):
        path = _student_folder(path)
    if family is None and (student := _student_of_run(path)):
        return student
    wanted = BackboneSpec(backbone=family or family_of(architecture(path)), weights=str(path))
    return FoundModel(wanted, *_view(_config(path).get("pretrained_cfg")))


def _config(folder: Path) -> dict[str, Any]:
    """What timm's local-dir format tells of a model; empty where there is nothing of the kind."""
    try:
        told = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _student_folder(run: Path) -> Path:
    if not (run / STUDENT).is_dir():
        raise WeightsError(
            f"the run in '{run}' has not written its student yet",
            f"Take one from a checkpoint: leapcore export {run}, and name the folder that it tells.",
        )
    return run / STUDENT


def _student_of_run(folder: Path) -> FoundModel | None:
    """A student that lies where its run or an export put it; None where no spec there can be read."""
    run = folder.parent if folder.name == STUDENT else folder.parent.parent
    if folder.name != STUDENT and folder.parent.name != EXPORTS:
        return None
    try:
        told = YAML(typ="safe").load(run / SPEC)
        wanted = BackboneSpec(**told["student"]).model_copy(update={"weights": str(folder)})
        return FoundModel(wanted, int(told["data"]["image_size"]), float(told["data"]["crop"]))
    except _UNKNOWN:
        return None


def _published_view(model: str) -> tuple[int, float]:
    try:
        config = import_timm().models.get_pretrained_cfg(model)
    except RuntimeError:  # no such tag, which building the model tells
        config = None
    return _view(config.to_dict() if config else None)


def _view(config: Any) -> tuple[int, float]:
    """Image size and crop as timm's configurations tell them, and leapcore's own where they do not."""
    try:
        return max(map(int, config["input_size"][-2:])), float(config["crop_pct"])
    except (KeyError, TypeError, ValueError):
        return FoundModel._field_defaults["image_size"], FoundModel._field_defaults["crop"]
