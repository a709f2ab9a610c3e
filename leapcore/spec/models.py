"""Teachers and student."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from leapcore.spec.method import CurriculumSpec
from leapcore.spec.section import FileName, Section


class BackboneSpec(Section):
    """A teacher or student."""

    backbone: str = Field(
        description="Family of the model, as plugins register it; `leapcore backbones` lists them."
    )
    model: str | None = Field(
        None, description="timm's name of the model; null where a weights folder names it."
    )
    weights: FileName = Field(
        "none",
        description="pretrained (download), none (random), a .safetensors or .pth file, a timm folder, or "
        "asset:NAME, which ships with leapcore.",
    )
    options: dict[str, Any] = Field(
        {}, description="Further arguments of timm's model, such as embed_dim; img_size, in pixels, as well."
    )

    @field_validator("options")
    @classmethod
    def _named(cls, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if not name.isidentifier():  # YAML reads {depth:4} as a key without a value
                raise ValueError(f"{name!r} is no name of an argument; in YAML, a space follows a colon")
        return options


class TeacherSpec(BackboneSpec):
    """One of several teachers."""

    weight: float = Field(1.0, gt=0, description="Factor of this teacher's loss in the sum.")
    curriculum: CurriculumSpec | None = Field(
        None, description="This teacher's own curriculum; null for the run's."
    )
