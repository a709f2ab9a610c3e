"""Teachers and student."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from leapcore.spec.method import CurriculumSpec
from leapcore.spec.section import FileName, Section


class BackboneSpec(Section):
    """A teacher or student."""

    backbone: str = Field(
        description="Family of the model, as plugins register it; `leapcore backbones` lists them."
    )
    model: str | None = Field(
        None, description="timm's name of the model; null where a weights folder tells it."
    )
    weights: FileName = Field(
        "none",
        description="pretrained (download), none (random), a .safetensors or .pth file, a timm folder, or "
        "asset:NAME, which ships with leapcore.",
    )
    options: dict[str, Any] = Field(
        {}, description="Further arguments of timm's model, such as embed_dim; img_size, in pixels, as well."
    )


class TeacherSpec(BackboneSpec):
    """One of several teachers."""

    weight: float = Field(1.0, gt=0, description="Factor of this teacher's loss in the sum.")
    curriculum: CurriculumSpec | None = Field(
        None, description="This teacher's own curriculum; null for the run's."
    )
