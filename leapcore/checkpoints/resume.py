"""Which settings of a run may change while it is interrupted."""

from __future__ import annotations

import logging

from leapcore.checkpoints.files import Checkpoint
from leapcore.errors import CheckpointError
from leapcore.spec import Spec
from leapcore.spec.section import flat

logger = logging.getLogger(__name__)

# What happens from there on; the longest prefix of a key decides. Anything else is refused.
ALLOWED = {
    "name": "it names the output folder",
    "data.train": "the files may have moved; their number must be the same",
    "data.val": "the files may have moved",
    "data.root": "the files may have moved",
    "data.workers": "the batches stay the same",
    "data.skip_limit": "it counts all images skipped so far",
    "data.crop": "evaluations use it",
    "teacher.weights": "the file may have moved; the weights must be the same",
    "student.weights": "the student's weights are those of the checkpoint",
    "curriculum": "the scheduler goes on from its state with the new option",
    "optimizer.lr": "the rate is the new one from here on",
    "optimizer.reference_batch": "the rate is the new one from here on",
    "optimizer.clip": "gradients are clipped so from here on",
    "optimizer.warmup": "the course of the rate is the new one from here on",
    "train.duration": "the course of the rate is that of a run of the new length",
    "train.log_every": "lines are written so from here on",
    "train.nonfinite_steps": "it counts from here on",
    "engine": "the state fits any number of processes and any ZeRO stage",
    "checkpoint": "checkpoints are written so from here on",
    "cache": "it decides what is computed again, not what is learned",
    "evaluate": "evaluations happen so from here on",
    "listeners": "they receive events from here on",
}
STREAMS = ("wds/", "hfids/")
REFUSED = {
    "curriculum.scheduler": "its state belongs to the other scheduler",
    "teacher": "the student is on its way to the other one",
    "student": "its weights belong to the other one",
    "objective": "it would be another objective",
    "data": "the course of the batches depends on it",
    "optimizer": "what the optimizer remembers belongs to the other setting",
    "train": "the course of the run depends on it",
}


def check_changes(saved: Checkpoint, spec: Spec) -> None:
    """Compare a spec with the one that a checkpoint was made with; log what changed.

    Raises:
        CheckpointError: Something changed that may not.
    """
    before, now = dict(flat(saved.state["spec"])), dict(flat(spec.model_dump(mode="json")))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    verdicts = {key: _verdict(_as_single(key)) for key in changed}
    if "data.workers" in verdicts and spec.data.source.startswith(STREAMS):
        verdicts["data.workers"] = (False, "each worker reads a part of the stream")
    for key, (allowed, why) in verdicts.items():
        change = f"{key}: {before.get(key)} -> {now.get(key)}"
        if not allowed:
            raise CheckpointError(
                f"the run cannot go on with {change}: {why}",
                "Take the change back; or start a new run in another folder, from these weights if you like: "
                "student.weights.",
            )
        logger.warning("changed since the checkpoint: %s (%s)", change, why)


def check_length(saved: Checkpoint, total_steps: int, train_images: int) -> None:
    """Make sure that the run is not over already, and has the same images.

    Raises:
        CheckpointError: It does not fit.
    """
    if saved.state["step"] > total_steps:
        raise CheckpointError(
            f"the checkpoint was taken after {saved.state['step']} steps, but the run has {total_steps}",
            "Set train.duration to more.",
        )
    if saved.state["images"]["train"] != train_images:
        raise CheckpointError(
            f"there are {train_images:,} training images, but there were {saved.state['images']['train']:,} "
            "when the checkpoint was written: the batches would be others",
            "Bring the same images back, or start a new run in another folder.",
        )


def _verdict(key: str) -> tuple[bool, str]:
    """Whether a key may change, and why."""
    rules = [(prefix, True, why) for prefix, why in ALLOWED.items()]
    rules += [(prefix, False, why) for prefix, why in REFUSED.items()]
    fitting = [rule for rule in rules if key == rule[0] or key.startswith(rule[0] + ".")]
    _, allowed, why = max(fitting, key=lambda rule: len(rule[0]))
    return allowed, why


def _as_single(key: str) -> str:
    """A key of one of several teachers as if it were the only one's."""
    first, *rest = key.split(".")
    if first != "teachers":
        return key
    own = rest[1:]
    return ".".join(own if own[:1] == ["curriculum"] else ["teacher", *own])
