"""Hashes of a model: of its weights, its structure and the code that it runs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

_PLAIN = (bool, int, float, str, type(None))


def weights_digest(module: nn.Module) -> str:
    """A hash of all weights and saved buffers: their names, types, shapes and every byte."""
    digest = _hash()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def structure_digest(module: nn.Module) -> str:
    """A hash of all modules, by name: their classes, and the plain values that they were built with."""
    digest = _hash()
    for name, part in module.named_modules():
        values = sorted((key, repr(value)) for key, value in vars(part).items() if _plain(value))
        digest.update(f"{name} {type(part).__module__}.{type(part).__qualname__} {values}\n".encode())
    return digest.hexdigest()


def code_digest(things: Iterable[Any]) -> str:
    """A hash of the files that define these classes and functions, those of torch left out.

    What was typed into an interpreter or notebook has no file: its classes count by name and values only.
    """
    names = {thing.__module__ for thing in things}
    modules = [sys.modules.get(name) for name in names if name.split(".")[0] != "torch"]
    files = {file for module in modules if (file := getattr(module, "__file__", None))}
    digest = _hash()
    for content in sorted(Path(file).read_bytes() for file in files):
        digest.update(hashlib.blake2b(content).digest())
    return digest.hexdigest()


def _plain(value: Any) -> bool:
    """Whether it is written alike in every process; an object may be written with its address."""
    return all(map(_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)
