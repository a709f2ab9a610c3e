"""Importing heavy libraries without their usual accidents."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

_MISSING_OPERATORS = ("nms", "qnms")


@cache
def torchvision_operators() -> str:
    """Make sure that torchvision can be imported; returns how: ``"compiled"`` or ``"declared"``.

    PyPI's torchvision is built for CUDA. Beside a CPU-only torch its compiled operators do not load, and
    its import fails because their names are unknown. leapcore uses none of them, so their signatures are
    declared; but only where the real ones cannot load, since torch aborts when both turn up.
    """
    if "torchvision" not in sys.modules and not _load_compiled():
        _declare()
        return "declared"
    return "compiled"


def import_timm() -> Any:
    """Import timm, with torchvision made importable first.

    Example:
        >>> timm = import_timm()
        >>> timm.is_model("vit_tiny_patch16_224")
        True
    """
    torchvision_operators()
    import timm

    return timm


def import_deepspeed() -> Any:
    """DeepSpeed, for this machine's accelerator and without compiling anything at start."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # It calls collectives by names that newer versions of torch warn of.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import deepspeed

    if "DEEPSPEED_LOG_LEVEL" not in os.environ:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    from deepspeed.ops import __compatible_ops__

    # DeepSpeed would compile its shared-memory all-reduce at the first start: 45 s, and a compiler.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def keep_freed_memory() -> None:
    """Let glibc keep large pieces of memory that were freed, for the next operator that needs one.

    By default it gives them back to the system, which must clear them page by page each time: about 3 % of
    a training step on a CPU. Elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
    if mallopt(mmap_threshold, 2**30):  # older versions refuse, and the other alone would make things worse
        mallopt(trim_threshold, 2**31 - 1)


def _load_compiled() -> bool:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    try:
        for library in Path(spec.origin).parent.glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _MISSING_OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # a declaration lives as long as its library object
