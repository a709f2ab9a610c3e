"""What leapcore itself registers, through the same hooks as anyone's plugin."""

from __future__ import annotations

from leapcore.plugins.hooks import hookimpl
from leapcore.plugins.registry import Registry

READ_BY_TIMM = ("hfds", "hfids", "wds", "torch")  # data sources, by their prefix


@hookimpl
def leapcore_register_schedulers(registry: Registry) -> None:
    """The curricula."""
    registry.register("cka", "leapcore.core.alignment_schedulers:CkaScheduler")
    registry.register("cosine", "leapcore.core.alignment_schedulers:CosineScheduler")
    registry.register("plateau", "leapcore.core.alignment_schedulers:PlateauScheduler")
    registry.register("fixed", "leapcore.core.schedulers:FixedScheduler")
    registry.register("linear", "leapcore.core.clock_schedulers:LinearScheduler")
    registry.register("steps", "leapcore.core.clock_schedulers:StepsScheduler")
    registry.register("random", "leapcore.core.clock_schedulers:RandomScheduler")


@hookimpl
def leapcore_register_losses(registry: Registry) -> None:
    """The patch losses."""
    registry.register("mse", "leapcore.core.losses:mse")
    registry.register("cosine", "leapcore.core.losses:cosine")


@hookimpl
def leapcore_register_datasets(registry: Registry) -> None:
    """Folders, the embedded digits, and every other source that timm reads."""
    registry.register("folder", "leapcore.data.sources:folder")
    registry.register("digits", "leapcore.data.sources:digits")
    for prefix in READ_BY_TIMM:
        registry.register(prefix, "leapcore.data.sources:from_timm")


@hookimpl
def leapcore_register_listeners(registry: Registry) -> None:
    """What keeps a run's curves."""
    registry.register("tensorboard", "leapcore.listeners.tensorboard:TensorBoard")
    registry.register("wandb", "leapcore.listeners.wandb:WeightsAndBiases")
    registry.register("mlflow", "leapcore.listeners.mlflow:MLflow")
