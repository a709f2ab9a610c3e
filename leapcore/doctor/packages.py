"""Installed packages against what leapcore's own metadata asks for, without importing any."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from leapcore.doctor.finding import Finding

# Told with their versions; all others only if something is wrong.
_TOLD = ("torch", "torchvision", "timm", "deepspeed", "fvcore", "numpy", "pydantic")
_BEYOND_EXTRAS = {"parquet": [Requirement("pyarrow")]}  # used where it is there
# Needed packages with compiled parts or with habits, which fail when they are imported.
_IMPORTED = ("numpy", "scipy", "sklearn", "PIL.Image", "safetensors", "fvcore.nn", "timm")


def versions() -> Iterator[Finding]:
    """Whether Python and each package that leapcore needs are there, and new enough."""
    wanted = _requirements()[""]
    wrong = [finding for requirement in wanted if (finding := _fault(requirement))]
    yield from wrong
    python = SpecifierSet(metadata("leapcore")["Requires-Python"] or "")
    if not python.contains(".".join(map(str, sys.version_info[:3]))):
        yield Finding("problem", f"leapcore needs Python {python}", "Make an environment with such a Python.")
    told = [f"{name} {_version(name)}" for name in _TOLD if _version(name)]
    more = f"; {len(wanted) - len(wrong)} of {len(wanted)} needed packages are there and new enough"
    yield Finding("ok", ", ".join(told) + more)


def extras() -> Iterator[Finding]:
    """Which optional packages are there; one that is too old is worth a warning."""
    there: list[str] = []
    absent: list[str] = []
    for extra, wanted in (_requirements() | _BEYOND_EXTRAS).items():
        if extra in ("", "dev"):
            continue
        installed = [requirement for requirement in wanted if _version(requirement.name)]
        (there if len(installed) == len(wanted) else absent).append(extra)
        faults = (_fault(requirement) for requirement in installed)
        yield from (fault._replace(state="warning") for fault in faults if fault)
    yield Finding(
        "ok", f"installed: {', '.join(there) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    )


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
            said = " ".join(str(error).split())
            remedy = f"Install it again: pip install --force-reinstall {_distribution(name)}"
            yield Finding("problem", f"{name} cannot be imported: {type(error).__name__}: {said}", remedy)
    if not failed:
        yield Finding("ok", f"{', '.join(_IMPORTED)} can be imported")


def _requirements() -> dict[str, list[Requirement]]:
    """What leapcore needs, and what each of its extras needs; "" for itself.

    Raises:
        PackageNotFoundError: leapcore is used from a folder, without being installed.
    """
    found: dict[str, list[Requirement]] = {"": []}
    for text in requires("leapcore") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            found[""].append(requirement)
            continue
        for extra in metadata("leapcore").get_all("Provides-Extra") or ():
            if marker.evaluate({"extra": extra}):
                found.setdefault(extra, []).append(requirement)
    return found


def _fault(requirement: Requirement) -> Finding | None:
    wanted = f"{requirement.name}{requirement.specifier}"
    there = _version(requirement.name)
    remedy = f"pip install --upgrade '{wanted}'"
    if not there:
        return Finding("problem", f"{requirement.name} is not installed", remedy)
    if not requirement.specifier.contains(there, prereleases=True):
        return Finding(
            "problem", f"{requirement.name} {there} is too old or too new: {wanted} is needed", remedy
        )
    return None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _distribution(module: str) -> str:
    top = module.partition(".")[0]
    return {"sklearn": "scikit-learn", "PIL": "pillow"}.get(top, top)
