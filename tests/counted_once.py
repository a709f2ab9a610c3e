"""Models of one structure are checked and counted once for all runs of the tests, which takes most of a short run.

The functions themselves are tested without this (tests/core, tests/testing).
"""

from functools import wraps

from torch import nn

from leapcore.core.batch_alignment import BatchAlignment
from leapcore.models import build as backbones
from leapcore.models.digests import structure_digest
from leapcore.train import build

PLACES = (
    (backbones, "check_layers"),
    (build, "teacher_costs"),
    (build, "idle_modules"),
    (build, "student_macs"),
)


def remember(monkeypatch):
    for module, name in PLACES:
        monkeypatch.setattr(module, name, _once(getattr(module, name)))


def _once(function):
    known = {}

    @wraps(function)
    def remembered(*arguments, **options):
        key = tuple(map(_told_apart, (*arguments, *options.values())))
        if key not in known:
            known[key] = function(*arguments, **options)
        return known[key]

    return remembered


def _told_apart(value):
    """By what a count depends on; of a module all but the numbers in its weights."""
    if isinstance(value, BatchAlignment):
        return value.name, value.tokens(1)
    if not isinstance(value, nn.Module):
        return value
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in value.state_dict().items())
    targets = tuple(type(part.target) for part in value.modules() if hasattr(part, "target"))
    return structure_digest(value), shapes, targets
