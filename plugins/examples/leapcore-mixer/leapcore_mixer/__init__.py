"""MLP-Mixers and a geometric curriculum for leapcore, loaded through the entry point in pyproject.toml."""

from leapcore import hookimpl


@hookimpl
def leapcore_register_backbones(registry):
    registry.register("mixer", "leapcore_mixer.provider:MixerProvider.build")


@hookimpl
def leapcore_register_schedulers(registry):
    registry.register("geometric", "leapcore_mixer.scheduler:GeometricScheduler")
