"""A run's models on the meta device: shapes and costs without weights, images or arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.data.sources import image_splits
from leapcore.distributed.ranks import Ranks
from leapcore.errors import DataError, WeightsError
from leapcore.spec import BackboneSpec, Spec
from leapcore.spec.paths import weights_path
from leapcore.train.build import build_models
from leapcore.train.parts import Models
from leapcore.train.teacher import Teacher

AnyBackbone = TypeVar("AnyBackbone", bound=BackboneSpec)

# Of a timm model's own arguments, those that a spec says in other ways.
_GIVEN_BY_THE_SPEC = ("num_classes", "in_chans", "img_size")
EPOCH = 100  # steps that stand for an epoch whose length is not known


@dataclass(frozen=True)
class PlannedRun:
    """What a run is made of, as far as it can be known without running it.

    Attributes:
        spec: The run.
        images: How many training images there are, None if that is not known.
        unknown: Why it is not.
        length: Of the run, in epochs of ``EPOCH`` steps if the number of images is not known.
        models: On the meta device, each teacher with its curriculum before its start.
    """

    spec: Spec
    images: int | None
    unknown: str
    length: RunLength
    models: Models

    @property
    def teachers(self) -> list[Teacher]:
        """On the meta device, each with its curriculum before its start."""
        return self.models.teachers

    @property
    def distiller(self) -> Distiller:
        """What is trained, on the meta device."""
        return self.models.distiller

    @property
    def student_macs(self) -> int:
        """MACs per image of the student without projectors."""
        return self.models.costs.student

    @property
    def depths(self) -> Mapping[str, int]:
        """From how many layers each teacher's curriculum chooses."""
        return {teacher.name: teacher.match.target.choices for teacher in self.teachers}


def planned(spec: Spec) -> PlannedRun:
    """Build what a plan needs: no weights are loaded, and of the images only the number is looked up.

    Raises:
        LeapcoreError: The models cannot be built like this, or do not fit together.
    """
    images, unknown = training_images(spec)
    per_epoch = max(1, images // spec.train.batch_size) if images is not None else EPOCH
    length = RunLength(spec.train.duration.in_steps(per_epoch), per_epoch)
    with torch.device("meta"):
        models = build_models(_weightless_run(spec), length, Ranks())
    return PlannedRun(spec, images, unknown, length, models)


def _weightless_run(spec: Spec) -> Spec:
    """The same run with random weights throughout."""
    return spec.model_copy(
        update={
            "student": weightless(spec.student),
            "teacher": spec.teacher and weightless(spec.teacher),
            "teachers": {name: weightless(teacher) for name, teacher in spec.teachers.items()},
        }
    )


def training_images(spec: Spec) -> tuple[int | None, str]:
    """How many training images there are, and if that is not known, why."""
    try:
        return len(image_splits(spec).train), ""
    except DataError as error:
        return spec.data.train_images, "" if spec.data.train_images else error.cause


def weightless(backbone: AnyBackbone) -> AnyBackbone:
    """The same architecture with weights that need no file and no download."""
    model, options = backbone.model, backbone.options
    with suppress(WeightsError):
        folder = weights_path(backbone.weights)
        if folder is not None and (folder / "config.json").is_file():
            config: dict[str, Any] = json.loads((folder / "config.json").read_text())
            own = config.get("model_args", {}).items()
            model = model or config.get("architecture")
            options = {key: value for key, value in own if key not in _GIVEN_BY_THE_SPEC} | options
    return backbone.model_copy(update={"weights": "none", "model": model, "options": options})
