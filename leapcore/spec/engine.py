"""The spec's sections around training: DeepSpeed's settings, checkpoints, cache, listeners."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from leapcore.core.duration import Duration, duration_pattern
from leapcore.errors import SpecError
from leapcore.spec.section import FileName, Name, Section, interval


class EngineSpec(Section):
    """How DeepSpeed trains."""

    zero_stage: int = Field(
        0,
        ge=0,
        le=3,
        description="ZeRO stage. Partitioned over the processes are: nothing (0), the optimizer's state (1), "
        "gradients too (2), weights too (3).",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="In how many parts each process takes its share of a batch, to save memory.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute the student's blocks in the backward pass: less memory, more time."
    )
    compile: bool = Field(
        False,
        description="Run the blocks of teacher and student as torch.compile's code: faster steps, a later "
        "first one. Needs a compiler.",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none",
        description="What is kept in host memory: the optimizer's state (ZeRO 1-3), or the weights too (3).",
    )
    deepspeed: dict[str, Any] = Field(
        {}, description="Any other setting of DeepSpeed's own configuration, passed on as it is."
    )

    @model_validator(mode="after")
    def _fits(self) -> EngineSpec:
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError("offload needs zero_stage: 1 or more")
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("offload: all needs zero_stage: 3, which alone partitions the weights")
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile needs zero_stage: 2 or less, since 3 takes blocks apart as they run")
        _refuse_conflicts(self.deepspeed)
        return self


# DeepSpeed's settings that follow from a key of the spec: two places would have to agree.
_SET_BY = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.batch_size and engine.accumulate",
    "gradient_accumulation_steps": "engine.accumulate",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "torch_autocast": "train.precision",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "activation_checkpointing": "engine.gradient_checkpointing",
    "zero_force_ds_cpu_optimizer": "optimizer.name",
    "zero_allow_untested_optimizer": "optimizer.name",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload",
    "zero_optimization.offload_param": "engine.offload",
}


def _refuse_conflicts(settings: dict[str, Any]) -> None:
    zero = settings.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError("deepspeed.zero_optimization is a mapping")
    for key in (*settings, *(f"zero_optimization.{key}" for key in zero)):
        if key in _SET_BY:
            raise ValueError(f"deepspeed.{key} is what {_SET_BY[key]} says: set it there alone")


def images_at_once(batch_size: int, engine: EngineSpec, processes: int) -> int:
    """How many images of a batch a process takes at a time.

    Raises:
        SpecError: They cannot be shared out evenly.
    """
    parts = processes * engine.accumulate
    if batch_size % parts:
        below = max(batch_size // parts, 1) * parts
        raise SpecError(
            f"train.batch_size: {batch_size} images cannot be shared out evenly among "
            f"{processes} processes with engine.accumulate: {engine.accumulate}",
            f"Use a multiple of {parts}, such as {below} or {below + parts}.",
        )
    return batch_size // parts


_INTERVAL = {"anyOf": [duration_pattern("ep", "st", "min", least=1), {"const": "never", "type": "string"}]}


class CheckpointSpec(Section):
    """When to save all that a run needs to go on."""

    every: Annotated[
        Duration | Literal["never"], PlainValidator(interval), PlainSerializer(str), WithJsonSchema(_INTERVAL)
    ] = Field(
        Duration(10, "min"),
        description="How often a checkpoint is written; a run that is stopped is saved in any case.",
    )
    keep: int = Field(2, ge=1, description="How many checkpoints are kept, the newest.")


class CacheSpec(Section):
    """Keeping what the teachers computed, for views that come again."""

    folder: FileName | None = Field(
        None, description="Where teacher features are kept, for this run and others; null keeps none."
    )
    limit_gb: float = Field(
        10.0, gt=0, description="Most that the folder may hold, in 10^9 bytes; what was unused longest goes."
    )


def _options_by_name(value: object) -> object:
    """A list such as ``[tensorboard, {wandb: {project: edge}}]`` as a mapping of options by name."""
    if isinstance(value, dict):
        return {name: {} if options is None else options for name, options in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    entries = [{entry: None} if isinstance(entry, str) else entry for entry in value]
    if not all(isinstance(entry, dict) and len(entry) == 1 for entry in entries):
        raise ValueError(
            f"each is a name, or a name with options: {{wandb: {{project: edge}}}}, got {value!r}"
        )
    names = [name for entry in entries for name in entry]
    if len(set(names)) < len(names):
        raise ValueError(f"each is named once, got {', '.join(names)}")
    return _options_by_name({name: options for entry in entries for name, options in entry.items()})


Listeners = Annotated[dict[Name, dict[str, Any]], BeforeValidator(_options_by_name)]
