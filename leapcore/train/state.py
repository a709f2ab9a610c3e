"""The whole state of a run, as a checkpoint holds it: taken, and restored."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leapcore._version import __version__
from leapcore.checkpoints.files import Checkpoint
from leapcore.errors import CheckpointError
from leapcore.spec import BackboneSpec
from leapcore.train.loop import Loop
from leapcore.train.parts import RunParts
from leapcore.train.teacher import Teacher
from leapcore.train.zero_state import whole_optimizer_state, whole_weights


def snapshot(loop: Loop) -> Checkpoint:
    """Everything that a run needs to continue. All processes call it."""
    parts = loop.parts
    tensors, numbers = whole_optimizer_state(parts.engine)
    state = {
        "leapcore": __version__,
        "spec": parts.spec.model_dump(mode="json"),
        "student": _student_spec(parts).model_dump(mode="json"),
        "images": {"train": len(parts.splits.train)},
        "ranks": parts.ranks.size,
        **loop.state_dict(),
        "ledger": parts.ledger.state_dict(),
        "lr_schedule": parts.lr_schedule.state_dict(),
        "teachers": {
            teacher.name: {"fingerprint": teacher.fingerprint, "scheduler": teacher.scheduler.state_dict()}
            for teacher in parts.teachers
        },
        "skipped": parts.batches.skipped.reasons,
        "optimizer": numbers,
        "loss_scale": parts.engine.loss_scaler.state_dict() if parts.engine.loss_scaler else None,
        "random": parts.ranks.all_gather_objects(_random_state()),
    }
    return Checkpoint(Path(), state, whole_weights(parts.engine), tensors)


def restore(loop: Loop, saved: Checkpoint) -> None:
    """Continue where a checkpoint was taken; weights and optimizer are restored when the run is built.

    Raises:
        CheckpointError: A teacher is another, or its curriculum's state does not fit.
    """
    parts, state = loop.parts, saved.state
    for teacher in parts.teachers:
        _restore_teacher(teacher, state["teachers"][teacher.name], saved.path)
    loop.load_state_dict(state)
    parts.ledger.load_state_dict(state["ledger"])
    parts.lr_schedule.load_state_dict(state["lr_schedule"])
    parts.batches.skipped.restore(state["skipped"])
    if parts.engine.loss_scaler and state["loss_scale"]:
        parts.engine.loss_scaler.load_state_dict(state["loss_scale"])
    if state["ranks"] == parts.ranks.size:
        _set_random_state(state["random"][parts.ranks.rank])


def _student_spec(parts: RunParts) -> BackboneSpec:
    """How to build the student again, whatever its first weights were."""
    spec, model = parts.spec.student, parts.student.model
    options = dict(getattr(model, "leapcore_options", spec.options))
    options.pop("num_classes", None)  # which a backbone's spec does not take
    own: dict[str, Any] = {"weights": "none", "options": options}
    if hasattr(model, "pretrained_cfg"):
        own["model"] = model.pretrained_cfg["architecture"]
    return spec.model_copy(update=own)


def _restore_teacher(teacher: Teacher, state: dict[str, Any], path: Path) -> None:
    try:
        teacher.scheduler.load_state_dict(state["scheduler"])
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint '{path}' is of another teacher: {error}",
            "Continue with the teacher that it was made with.",
        ) from error
    if teacher.fingerprint != state["fingerprint"]:
        raise CheckpointError(
            f"the weights of teacher '{teacher.name}' are not those that checkpoint '{path}' was made with",
            "Name the weights that it was made with.",
        )


def _random_state() -> dict[str, Any]:
    """This process's generators: Python's, NumPy's, torch's, and its GPU's."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(_bytes(state["torch"]))
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
