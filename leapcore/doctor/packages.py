"""Installed packages and plugins: their versions, and whether they can be imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from leapcore.doctor.runner import Finding, State

# Listed with their versions; all others only if something is wrong.
_LISTED = ("torch", "torchvision", "timm", "deepspeed", "fvcore", "numpy", "pydantic")
_BEYOND_EXTRAS = {"parquet": [Requirement("pyarrow")]}  # used where it is there
# Needed packages with compiled parts or with habits, which fail when they are imported.
_IMPORTED = ("numpy", "scipy", "sklearn", "PIL.Image", "safetensors", "fvcore.nn", "timm")


def versions() -> Iterator[Finding]:
    """Whether Python and each package that leapcore needs are there, and new enough."""
    needed = _requirements()[""]
    faults = [fault for requirement in needed if (fault := _fault(requirement))]
    yield from faults
    python = SpecifierSet(metadata("leapcore")["Requires-Python"] or "")
    if not python.contains(".".join(map(str, sys.version_info[:3]))):
        yield Finding("problem", f"leapcore needs Python {python}", "Make an environment with such a Python.")
    listed = ", ".join(f"{name} {_version(name)}" for name in _LISTED if _version(name))
    share = f"{len(needed) - len(faults)} of {len(needed)} needed packages are there and new enough"
    yield Finding("ok", f"{listed}; {share}")


def extras() -> Iterator[Finding]:
    """Which optional packages are there; one that is too old is worth a warning."""
    complete: list[str] = []
    incomplete: list[str] = []
    for extra, requirements in (_requirements() | _BEYOND_EXTRAS).items():
        if extra in ("", "dev"):
            continue
        installed = [requirement for requirement in requirements if _version(requirement.name)]
        (complete if len(installed) == len(requirements) else incomplete).append(extra)
        faults = (_fault(requirement) for requirement in installed)
        yield from (fault._replace(state="warning") for fault in faults if fault)
    installed_extras, others = (", ".join(extras) or "none" for extras in (complete, incomplete))
    yield Finding("ok", f"installed: {installed_extras}; not installed: {others}")


def libraries() -> Iterator[Finding]:
    """Whether what models and evaluations are made of can be imported."""
    from leapcore.compat import torchvision_operators

    torchvision_operators()  # or timm would fail for torchvision's sake
    failed = []
    for name in _IMPORTED:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a library that is broken can raise anything
            failed.append(name)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            remedy = f"Install it again: pip install --force-reinstall {_distribution(name)}"
            yield Finding("problem", f"{name} cannot be imported: {reason}", remedy)
    if not failed:
        yield Finding("ok", f"{', '.join(_IMPORTED)} can be imported")


def plugins() -> Iterator[Finding]:
    """Whether every installed plugin works, the modules behind its names included."""
    from leapcore.plugins.loader import installed_plugins

    plugins, working = installed_plugins(), []
    for info in plugins.infos:
        cause, remedy = plugins.diagnosis(info)
        if cause:
            state: State = "problem" if info.distribution.startswith("leapcore ") else "warning"
            message = f"plugin '{info.name}' ({info.distribution}) is broken: {cause}"
            yield Finding(state, message, remedy)
        else:
            working.append(info.name)
    if working:
        yield Finding("ok", f"{', '.join(working)} work")


def _requirements() -> dict[str, list[Requirement]]:
    """What leapcore needs, and what each of its extras needs; "" for itself.

    Raises:
        PackageNotFoundError: leapcore is used from a folder, without being installed.
    """
    requirements: dict[str, list[Requirement]] = {"": []}
    for text in requires("leapcore") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            requirements[""].append(requirement)
            continue
        for extra in metadata("leapcore").get_all("Provides-Extra") or ():
            if marker.evaluate({"extra": extra}):
                requirements.setdefault(extra, []).append(requirement)
    return requirements


def _fault(requirement: Requirement) -> Finding | None:
    """What is wrong with an installed package; None if it is new enough."""
    name, installed = requirement.name, _version(requirement.name)
    needed = f"{name}{requirement.specifier}"
    remedy = f"pip install --upgrade '{needed}'"
    if not installed:
        return Finding("problem", f"{name} is not installed", remedy)
    if not requirement.specifier.contains(installed, prereleases=True):
        message = f"{name} {installed} is too old or too new: {needed} is needed"
        return Finding("problem", message, remedy)
    return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _distribution(module: str) -> str:
    top = module.partition(".")[0]
    return {"sklearn": "scikit-learn", "PIL": "pillow"}.get(top, top)
