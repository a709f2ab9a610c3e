"""Backbones for leapcore over timm, one module per family.

This package is loaded through its entry point and uses leapcore's public names only, like anyone's plugin.
"""

from typing import Any

from leapcore import hookimpl

FAMILIES = ("vit", "hierarchical", "convnext", "hybrid", "timm")


@hookimpl
def leapcore_register_backbones(registry: Any) -> None:
    """Name the families; each module is imported when its family is first used."""
    for family in FAMILIES:
        module = "generic" if family == "timm" else family
        registry.register(family, f"leapcore_backbones.{module}:FAMILY")
