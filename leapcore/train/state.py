"""A loop's whole state, taken and given back."""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leapcore._version import __version__
from leapcore.checkpoints.files import Checkpoint
from leapcore.errors import CheckpointError
from leapcore.plugins.events import TargetChange
from leapcore.train.loop import Loop
from leapcore.train.zero_state import whole_optimizer_state, whole_weights


def snapshot(loop: Loop) -> Checkpoint:
    """Everything that a loop needs to go on. All processes call it."""
    parts = loop.parts
    tensors, numbers = whole_optimizer_state(parts.engine)
    state = {
        "leapcore": __version__,
        "spec": parts.spec.model_dump(mode="json"),
        "student": parts.student_spec.model_dump(mode="json"),
        "step": loop.step,
        "run": loop.run,
        "images": {"train": len(parts.splits.train)},
        "ranks": parts.ranks.size,
        "seconds": loop.seconds,
        "wall_seconds": time.perf_counter() - loop.started,
        "changes": [asdict(change) for change in loop.changes],
        "reported": list(loop.reported),
        "metrics": loop.metrics.state_dict(),
        "nonfinite": loop.nonfinite,
        "ledger": parts.ledger.state_dict(),
        "lr_schedule": parts.lr_schedule.state_dict(),
        "teachers": {
            teacher.name: {"fingerprint": teacher.fingerprint, "scheduler": teacher.scheduler.state_dict()}
            for teacher in parts.teachers
        },
        "skipped": parts.batches.skipped.reasons,
        "optimizer": numbers,
        "loss_scale": parts.engine.loss_scaler.state_dict() if parts.engine.loss_scaler else None,
        "mixing": loop.mixing.get_state().numpy().tobytes().hex(),
        "random": parts.ranks.gather(_random_state()),
    }
    return Checkpoint(Path(), state, whole_weights(parts.engine), tensors)


def restore(loop: Loop, saved: Checkpoint) -> None:
    """Go on where a checkpoint was taken; weights and optimizer are restored when the loop's parts are built.

    Raises:
        CheckpointError: A teacher is another, or its curriculum's state does not fit.
    """
    parts, state = loop.parts, saved.state
    for teacher in parts.teachers:
        _restore_teacher(teacher, state["teachers"][teacher.name], saved.path)
    loop.step, loop.seconds, loop.nonfinite = state["step"], state["seconds"], state["nonfinite"]
    loop.run = state["run"]
    loop.started -= state["wall_seconds"]
    loop.changes = [TargetChange(**change) for change in state["changes"]]
    loop.reported = tuple(state["reported"])
    loop.metrics.load_state_dict(state["metrics"])
    parts.ledger.load_state_dict(state["ledger"])
    parts.lr_schedule.load_state_dict(state["lr_schedule"])
    parts.batches.skipped.restore(state["skipped"])
    if parts.engine.loss_scaler and state["loss_scale"]:
        parts.engine.loss_scaler.load_state_dict(state["loss_scale"])
    loop.mixing.set_state(_bytes(state["mixing"]))
    if state["ranks"] == parts.ranks.size:
        _set_random_state(state["random"][parts.ranks.rank])


def _restore_teacher(teacher: Any, state: dict[str, Any], path: Path) -> None:
    try:
        teacher.scheduler.load_state_dict(state["scheduler"])
    except ValueError as error:
        raise CheckpointError(
            f"checkpoint '{path}' is of another teacher: {error}", "Go on with the teacher it was made with."
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
