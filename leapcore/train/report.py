"""What a run reports of itself: at its start, at its end, and when it is stopped."""

from __future__ import annotations

import signal
import time

from leapcore.errors import Interrupted, LeapcoreError, Terminated, describe_error
from leapcore.export.student import load_line
from leapcore.plugins.events import RunReport, RunStart
from leapcore.runs.folder import RunFolder
from leapcore.train.loop import Loop
from leapcore.train.machine import machine


def ended_by(error: BaseException) -> tuple[str, str]:
    """The run's status, and why it failed."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", ""
    return "failed", error.cause if isinstance(error, LeapcoreError) else describe_error(error)


def stop_error(loop: Loop, folder: RunFolder, problem: str) -> Interrupted:
    """The error of a run that was stopped: what was done, where it is, and how to go on.

    Args:
        loop: The run.
        folder: Its results.
        problem: Why the last checkpoint could not be written, empty if it was.
    """
    kind = Terminated if loop.stopped == signal.SIGTERM else Interrupted
    if loop.step == 0:
        return kind("stopped before the first step; nothing was left behind")
    latest = folder.checkpoints.latest()
    if loop.step == loop.parts.length.total_steps:
        return kind(
            f"stopped after the last step; the student is trained and lies in {folder.student}",
            "Only its accuracy is missing" + (": --resume evaluates it." if latest else "."),
        )
    total = loop.parts.length.total_steps
    done = f"stopped after {loop.step} of {total} steps; what was done is in {folder.path}"
    if latest is None:
        on = f"--output DIR --set student.weights={folder.student}, or start again with --overwrite."
        return kind(done, f"{problem or 'There is no checkpoint'}. Go on from these weights with {on}")
    return kind(done, f"Go on from {latest} with the same command and --resume.")


def position(loop: Loop) -> str:
    """How far a run is, for a message."""
    layers = ", ".join(str(teacher.scheduler.target + 1) for teacher in loop.parts.teachers)
    return f"after {loop.step} steps (batch of {loop.parts.spec.train.batch_size}, target layer {layers})"


def run_start(loop: Loop, folder: RunFolder) -> RunStart:
    """What is known before the first step."""
    parts = loop.parts
    return RunStart(
        spec=parts.spec,
        folder=folder.path,
        total_steps=parts.length.total_steps,
        steps_per_epoch=parts.length.steps_per_epoch,
        teachers=parts.teacher_facts,
        student=parts.student_facts,
        train_images=len(parts.splits.train),
        val_images=len(parts.splits.val),
        step=loop.step,
        targets={teacher.name: teacher.scheduler.target + 1 for teacher in parts.teachers},
        forecast=parts.costs.forecast({t.name: t.scheduler for t in parts.teachers}),
        deepest={teacher.name: teacher.match.target.choices for teacher in parts.teachers},
        links=loop.links,
    )


def run_report(loop: Loop, folder: RunFolder, status: str, error: str) -> RunReport:
    """What was achieved so far, before the last evaluations.

    Args:
        loop: The run.
        folder: Its results.
        status: How it ended.
        error: Why it failed, empty if it did not.
    """
    parts, ledger = loop.parts, loop.parts.ledger
    return RunReport(
        name=parts.spec.name,
        folder=folder.path,
        status=status,
        steps=loop.step,
        accuracy={},
        flops={
            "spent": ledger.spent,
            "baseline": ledger.baseline,
            "saved": ledger.saved,
            "spent_by_part": ledger.flops_by_part(),
        },
        time={
            "seconds": time.perf_counter() - loop.started,
            "training_seconds": loop.seconds,
            "images_per_second": loop.step * parts.spec.train.batch_size / max(loop.seconds, 1e-9),
        },
        student={
            "folder": str(folder.student),
            "parameters": parts.student_facts.parameters,
            "load": load_line(folder.student),
        },
        teachers={
            name: {"parameters": facts.parameters, "layers": facts.layers}
            for name, facts in parts.teacher_facts.items()
        },
        curriculum=loop.changes,
        machine=machine(parts.ranks.size, parts.device),
        links=loop.links,
        error=error,
    )
