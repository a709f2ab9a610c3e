"""The spec's sections about training: optimizer, learning rate, length and precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from leapcore.core.duration import Duration
from leapcore.spec.section import Period, Section, Share


class RestartSpec(Section):
    """The learning rate starts again at every advance of the curriculum; all forms are of LEAP's code."""

    peak: Literal["full", "envelope", "gap", "rising_gap"] = Field(
        "full",
        description="Height of a new start: the full rate; that of a single cosine there (envelope); the "
        "rate before plus a share of what is missing: envelope (gap) or scale * (1 - envelope) (rising_gap).",
    )
    scale: Share | None = Field(None, description="Factor of rising_gap; null is 0.5.")
    warmup: Period | None = Field(None, description="Climb from 1 % to the peak at every start, for so long.")
    peak_decay: Share | None = Field(
        None, description="With warmup: share of the peak that each start loses."
    )

    @model_validator(mode="after")
    def _fits(self) -> RestartSpec:
        if self.scale is not None and self.peak != "rising_gap":
            raise ValueError("scale belongs to peak: rising_gap")
        if self.peak_decay is not None and self.warmup is None:
            raise ValueError("peak_decay needs a warmup at every start")
        if self.warmup is not None and self.peak != "full":
            raise ValueError(f"a warmup at every start climbs to the full peak, not to '{self.peak}'")
        return self


class OptimizerSpec(Section):
    """How the student's weights move."""

    name: str = Field("lars", description="timm's name of the optimizer: lars (LEAP), adamw, sgd, …")
    lr: float = Field(
        2.45,
        gt=0,
        description="Peak learning rate (LEAP: 6 at a reference_batch of 1536; 2.45 at a batch of 256).",
    )
    reference_batch: int | None = Field(
        None,
        gt=0,
        description="Images per step that lr is meant for: it is multiplied by "
        "sqrt(batch_size / reference_batch) (LEAP: 1536); null takes lr as it is.",
    )
    weight_decay: float = Field(
        1e-6, ge=0, description="Weight decay (LEAP: 1e-6); not applied to norms, biases and embeddings."
    )
    clip: float = Field(1.0, ge=0, description="Largest L2 norm of the gradient (LEAP: 1); 0 does not clip.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine",
        description="Course of the rate after the warm-up; the cosine ends at 0.001 of the peak (LEAP).",
    )
    restart: RestartSpec | None = Field(None, description="Start again at every advance; null never does.")
    constant_warmup: bool = Field(
        False,
        description="With restart: keep the full rate during the first warm-up instead of climbing to it.",
    )
    warmup: Duration | None = Field(
        None,
        description="Length of the linear warm-up; null for LEAP's: 10 epochs, at most a tenth of the run.",
    )

    @model_validator(mode="after")
    def _fits(self) -> OptimizerSpec:
        if self.restart is not None and self.schedule != "cosine":
            raise ValueError(
                "a constant rate has nothing to restart: leave out restart, or set schedule: cosine"
            )
        if self.restart is not None and self.restart.warmup is not None and self.warmup is not None:
            raise ValueError("restart.warmup takes the place of warmup: give one of them")
        if self.constant_warmup and (self.restart is None or self.restart.warmup is not None):
            raise ValueError("constant_warmup needs a restart without a warmup of its own")
        return self


class TrainSpec(Section):
    """How long and on what numbers."""

    duration: Period = Field(Duration(100, "ep"), description="Length of training (LEAP: 100ep).")
    batch_size: int = Field(256, gt=1, description="Images per step, over all processes (LEAP: 256).")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="Numbers of matrix products (LEAP: float16); weights stay in float32 (autocast).",
    )
    seed: int = Field(
        0, ge=0, description="Seed of all random draws; two runs with one seed agree, on CPUs bit for bit."
    )
    log_every: int = Field(10, gt=0, description="Steps between two lines of metrics.jsonl.")
    nonfinite_steps: Annotated[int, Field(ge=1)] | Literal["skip"] = Field(
        3,
        description="Steps in a row without a finite loss that stop the run; skip never stops. "
        "Such a step changes no weight.",
    )
