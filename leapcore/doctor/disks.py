"""Room on disks and in shared memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from leapcore.doctor.runner import Finding

_GIB = 2**30
_SHARED = Path("/dev/shm")
_ENOUGH_SHARED = 0.5 * _GIB  # 4 workers have 8 batches of 256 images of 224 pixels under way: 0.29 GiB
_LEAST, _ENOUGH_HERE, _ENOUGH_CACHE = 0.1 * _GIB, 2 * _GIB, 5 * _GIB  # ViT-g/14 is a file of 4.2 GiB


def disk() -> Iterator[Finding]:
    """Room where results go, which is the current folder, and where downloads are kept."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    message = f"{here}: {free / _GIB:.1f} GiB free"
    if not os.access(here, os.W_OK):
        yield Finding("warning", f"{here} cannot be written to", "Name a folder for results: --output DIR.")
    elif free < _ENOUGH_HERE:
        remedy = "Make room for checkpoints, or name a folder elsewhere: --output DIR."
        yield Finding("problem" if free < _LEAST else "warning", message, remedy)
    else:
        yield Finding("ok", message)
    for variable, path in _caches().items():
        yield _cache(variable, path)


def shared_memory() -> Iterator[Finding]:
    """Room for the batches that come from processes which load images."""
    if not _SHARED.is_dir():
        yield Finding("ok", f"there is no {_SHARED} here, and none is needed")
        return
    usage = shutil.disk_usage(_SHARED)
    message = f"{_SHARED}: {usage.free / _GIB:.2f} of {usage.total / _GIB:.2f} GiB free"
    if usage.free < _ENOUGH_SHARED:
        remedy = "Give the container more (docker run --shm-size=2g), or set data.workers: 0."
        yield Finding("warning", f"{message}: processes that load images may die", remedy)
    else:
        yield Finding("ok", message)


def _caches() -> dict[str, Path]:
    """Where pretrained weights and compiled code are kept, by the variable that names the folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    defaults = {"HF_HOME": base / "huggingface", "TORCH_HOME": base / "torch"}
    return {name: Path(os.environ.get(name, path)).expanduser() for name, path in defaults.items()}


def _cache(variable: str, path: Path) -> Finding:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        remedy = f"Set {variable} to a folder of your own."
        return Finding("warning", f"{path} cannot be written to, so nothing can be downloaded", remedy)
    free = shutil.disk_usage(existing).free
    message = f"{path}: {free / _GIB:.1f} GiB free for downloads"
    if free < _ENOUGH_CACHE:
        return Finding(
            "warning", f"{message}, and a large teacher takes 4.2", f"Set {variable} to a larger disk."
        )
    return Finding("ok", message)
