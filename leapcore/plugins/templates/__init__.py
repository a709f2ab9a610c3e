"""What ``leapcore plugins new`` writes: a package that works, to start one's own from."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from string import Template

from leapcore._version import __version__
from leapcore.errors import OutputError, SpecError


def write_plugin(name: str, folder: Path | None = None) -> Path:
    """Write a package with a backbone, its test and a spec.

    Args:
        name: How specs will name the backbone, such as ``my-backbone``.
        folder: Where to; ``leapcore-<name>`` if not given.

    Returns:
        The folder.

    Raises:
        SpecError: The name cannot be that of a package.
        OutputError: The folder exists already, or cannot be written.
    """
    name = name.removeprefix("leapcore-")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise SpecError(
            f"'{name}' cannot be a package's name", "Use small letters, digits and hyphens: my-backbone."
        )
    folder = folder or Path(f"leapcore-{name}")
    if folder.exists():
        raise OutputError(f"'{folder}' exists already", "Give another name, or --output DIR.")
    words = {
        "name": name,
        "package": f"leapcore_{name.replace('-', '_')}",
        "klass": "".join(part.capitalize() for part in name.split("-")),
        "version": __version__,
        "next_minor": _next_minor(__version__),
    }
    try:
        _write(Path(str(files(__name__))) / "plugin", folder, words)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # half a package would only be in the way
        raise OutputError(f"'{folder}' cannot be written: {error}", "Give --output DIR.") from error
    return folder


def _write(source: Path, target: Path, words: dict[str, str]) -> None:
    """Copy a folder, with the words in names and texts replaced."""
    target.mkdir(parents=True)
    for entry in source.iterdir():
        path = target / Template(entry.name.removesuffix(".tmpl")).substitute(words)
        if entry.is_dir():
            _write(entry, path, words)
        else:
            path.write_text(Template(entry.read_text()).substitute(words))


def _next_minor(version: str) -> str:
    major, minor = version.split(".")[:2]
    return f"{major}.{int(minor) + 1}"
