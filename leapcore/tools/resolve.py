"""A model that a user names on the command line becomes the backbone that a spec would name."""

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

_NO_SPEC = (OSError, TypeError, KeyError, ValueError, AttributeError, *NOT_YAML)


class ResolvedModel(NamedTuple):
    """A model, not built yet.

    Attributes:
        backbone: As a spec would name it.
        image_size: Side of the images that it was trained on, in pixels; 224 where that is unknown.
        crop: Share of each side that its evaluation keeps.
    """

    backbone: BackboneSpec
    image_size: int = 224
    crop: float = 0.875


def resolve_model(model: str, family: str | None = None) -> ResolvedModel:
    """Turn a model's name into a backbone's spec, with the images that it expects.

    Args:
        model: A run's folder, whose student it is; a student's own folder; a folder in timm's local-dir
            format; or a timm name, with its pretrained weights.
        family: Its backbone family; if None, the one that lists the model.

    Raises:
        WeightsError: The folder holds no model, or a run without a student.
    """
    path = Path(model)
    if not path.exists():
        return _published_model(model, family)
    if all((path / name).is_file() for name in BEGUN):
        path = _student_folder(path)
    if family is None and (student := _student_with_spec(path)):
        return student
    backbone = BackboneSpec(backbone=family or family_of(architecture(path)), weights=str(path))
    return ResolvedModel(backbone, *_view(_timm_config(path).get("pretrained_cfg")))


def _published_model(model: str, family: str | None) -> ResolvedModel:
    """A timm model with its pretrained weights.

    Raises:
        WeightsError: The name reads like a path, and nothing is there.
    """
    if len(Path(model).parts) > 1 and ":" not in model:
        raise WeightsError(
            f"there is no folder '{model}'", "Name a run's or a student's folder, or a model of timm's."
        )
    backbone = BackboneSpec(backbone=family or family_of(model), model=model, weights="pretrained")
    try:
        config = import_timm().models.get_pretrained_cfg(model)
    except RuntimeError:  # no such tag; building the model says so
        config = None
    return ResolvedModel(backbone, *_view(config.to_dict() if config else None))


def _student_folder(run: Path) -> Path:
    if not (run / STUDENT).is_dir():
        raise WeightsError(
            f"the run in '{run}' has not written its student yet",
            f"Take one from a checkpoint: leapcore export {run}, and name the folder that it prints.",
        )
    return run / STUDENT


def _student_with_spec(folder: Path) -> ResolvedModel | None:
    """A student that lies where its run or an export put it; None where no spec there can be read."""
    run = folder.parent if folder.name == STUDENT else folder.parent.parent
    if folder.name != STUDENT and folder.parent.name != EXPORTS:
        return None
    try:
        spec = YAML(typ="safe").load(run / SPEC)
        backbone = BackboneSpec(**spec["student"]).model_copy(update={"weights": str(folder)})
        return ResolvedModel(backbone, int(spec["data"]["image_size"]), float(spec["data"]["crop"]))
    except _NO_SPEC:
        return None


def _timm_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of timm's local-dir format; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _view(config: Any) -> tuple[int, float]:
    """Image size and crop of one of timm's configurations, leapcore's own where it has none."""
    try:
        return max(map(int, config["input_size"][-2:])), float(config["crop_pct"])
    except (KeyError, TypeError, ValueError):
        return ResolvedModel._field_defaults["image_size"], ResolvedModel._field_defaults["crop"]
