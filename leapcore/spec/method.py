"""What the student learns, in which order, and when that is measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from leapcore.spec.section import FileName, Moment, Section


class CurriculumSpec(Section):
    """Which teacher layer is the target, and when it moves. Other keys are options of the scheduler."""

    model_config = ConfigDict(extra="allow", frozen=True)

    scheduler: str = Field("cka", description="A difficulty scheduler, as plugins register it (LEAP: cka).")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the scheduler."""
        return self.model_extra or {}

    @property
    def chooses(self) -> bool:
        """Whether the target may be another layer than the last."""
        return self.scheduler != "fixed" or self.options.get("layer", "last") != "last"


class ObjectiveSpec(Section):
    """What the student minimises, for each teacher alike."""

    target: Literal["layer", "layer+last", "all"] = Field(
        "layer",
        description="What the student's last layer learns from: the curriculum's layer (LEAP), or that and "
        "the last one; all: each of its layers from the teacher's at the same depth, without a curriculum.",
    )
    reduction: Literal["mean", "sum"] | None = Field(
        None, description="How the losses of all layers are joined, with target: all; null is mean."
    )
    patch: str = Field("mse", description="Loss between tokens, as plugins register it (LEAP: mse).")
    cls_weight: float = Field(0.05, ge=0, description="Factor of the loss between class tokens (LEAP: 0.05).")
    cls_head: Literal["shared", "separate"] = Field(
        "shared", description="Whether class token and tokens are projected by one head (LEAP) or by two."
    )
    sigreg: float = Field(
        0.0,
        ge=0,
        description="Factor of SIGReg, which draws the student's covariance to the identity (an extra of "
        "LEAP's code, there 0.01).",
    )
    patch_embedding: float = Field(
        0.0,
        ge=0,
        description="Factor of the loss between normalised patch embeddings (an extra of LEAP's code).",
    )
    target_norm: Literal["final", "parameter-free", "raw"] = Field(
        "final",
        description="Norm of the teacher's features: its own final norm where the width is the last layer's, "
        "else one without parameters (final, LEAP); that one everywhere (parameter-free); none (raw).",
    )
    grid: Literal["smaller", "larger"] = Field(
        "smaller",
        description="Where tokens are compared if grids differ: the larger is averaged down to the smaller, "
        "or the smaller stretched bilinearly to the larger.",
    )
    reset_projector: bool = Field(
        False, description="Draw the projector anew at every advance (an extra of LEAP's code)."
    )
    mixup: bool = Field(
        True, description="Mix each batch with a permutation of itself, by a weight from U(0, 1) (LEAP)."
    )

    @model_validator(mode="after")
    def _fits(self) -> ObjectiveSpec:
        if self.cls_head == "separate" and self.cls_weight == 0:
            raise ValueError("a separate cls_head would never be trained with cls_weight: 0")
        if self.reduction is not None and self.target != "all":
            raise ValueError(f"reduction belongs to target: all, not to target: {self.target}")
        return self


class EvaluateSpec(Section):
    """When to look at what the student has learned: every so often, at the end, or never."""

    knn: Moment = Field(
        "end",
        description="Accuracy of the 20 nearest neighbours by the cosine of pooled features (not in LEAP).",
    )
    linear: Literal["end", "never"] = Field(
        "end", description="Accuracy of a linear probe of 100 epochs (LEAP's protocol)."
    )
    cka_map: Moment = Field(
        "never",
        description="Linear CKA of each layer of the student with each of the teacher's, on the tokens of "
        "256 validation images; with a duration also before the first step and at the end (cka_maps.jsonl).",
    )
    retrieval: list[FileName] = Field(
        [],
        description="Folders of revisited Oxford or Paris, for instance retrieval at the end (LEAP's).",
    )
    teacher: bool = Field(False, description="Evaluate the teacher too, once, for comparison.")

    @property
    def measures_accuracy(self) -> bool:
        """Whether any figure will show what the student has learned."""
        return self.knn != "never" or self.linear != "never" or bool(self.retrieval)

    @property
    def needs_images(self) -> bool:
        """Whether anything is measured on the validation images."""
        return any(when != "never" for when in (self.knn, self.linear, self.cka_map))
