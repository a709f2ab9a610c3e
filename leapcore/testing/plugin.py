"""The contract of the backbones and schedulers that a plugin registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leapcore.errors import PluginError, did_you_mean
from leapcore.models.build import factory_attribute
from leapcore.plugins.loader import PluginInfo, installed_plugins
from leapcore.testing.backbone import report_on_backbone
from leapcore.testing.report import ContractReport
from leapcore.testing.scheduler import report_on_scheduler


def check_plugin(
    name: str, *, model: str | None = None, image_size: int = 64, options: dict[str, Any] | None = None
) -> Iterator[tuple[str, ContractReport]]:
    """Check all backbones and schedulers of an installed plugin, one after the other.

    A factory may have ``samples``, what to check it with: of a backbone, objects with ``model``,
    ``image_size`` and ``options``; of a scheduler, its options as mappings.

    Args:
        name: The plugin's name.
        model: The model of a backbone without samples.
        image_size: Its image size.
        options: Its options.

    Yields:
        What was checked, and the report.

    Raises:
        PluginError: There is no such plugin, or it is broken.
    """
    info = _working(name)
    plugins = installed_plugins()
    for family in info.registers.get("backbones", ()):
        factory = plugins.get("backbones", family)
        chosen = [(model, image_size, options or {})]
        for sample in chosen if model or options else factory_attribute(factory, "samples", chosen):
            sample_model, size, sample_options = sample
            report = report_on_backbone(factory, size, model=sample_model, options=sample_options)
            yield f"backbone {family} {sample_model or ''}".rstrip(), report
    for scheduler in info.registers.get("schedulers", ()):
        factory = plugins.get("schedulers", scheduler)
        samples: Sequence[Mapping[str, Any]] = factory_attribute(factory, "samples", ({},))
        for scheduler_options in samples:
            yield f"scheduler {scheduler}", report_on_scheduler(factory, options=scheduler_options)


def _working(name: str) -> PluginInfo:
    infos = {info.name: info for info in installed_plugins().infos}
    if name not in infos:
        raise PluginError(f"there is no plugin '{name}'", did_you_mean(name, infos))
    info = infos[name]
    if info.cause:
        raise PluginError(f"plugin '{name}' ({info.distribution}) is broken: {info.cause}", info.remedy)
    return info
