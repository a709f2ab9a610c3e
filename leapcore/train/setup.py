"""From a spec to everything that a run is made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from leapcore._version import __version__
from leapcore.checkpoints.files import Checkpoint
from leapcore.compat import keep_freed_memory
from leapcore.core.lr import LrSchedule
from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import evaluation_sample
from leapcore.data.views import mixed
from leapcore.distributed.ranks import Ranks, device, join
from leapcore.spec import BackboneSpec, Spec
from leapcore.spec.section import flat
from leapcore.train.components import lr_schedule
from leapcore.train.deepspeed import Engine
from leapcore.train.groundwork import AUTOCAST, Groundwork, Tell, lay_groundwork, seed_everything
from leapcore.train.zero_state import restore_optimizer_state

MAP_IMAGES = 256  # on which the layers' alignments are mapped


@dataclass(kw_only=True)
class RunParts(Groundwork):
    """A run, built and ready for its first step: its data and models, and what trains them.

    Attributes:
        spec: The resolved spec.
        ranks: The processes that share the work.
        device: Where this one computes.
        twin: A plain copy of the student that its weights are put into where the engine partitions them; on
            the first process only.
        engine: Trains the distiller.
        lr_schedule: The course of the learning rate.
    """

    spec: Spec
    ranks: Ranks
    device: torch.device
    twin: LayerFeatureProvider | None
    engine: Engine
    lr_schedule: LrSchedule

    @property
    def total_steps(self) -> int:
        """Length of the run."""
        return self.length.total_steps

    def autocast(self) -> torch.autocast:
        """The precision of the spec, as a context."""
        kind = AUTOCAST[self.spec.train.precision]
        return torch.autocast(self.device.type, kind, enabled=kind is not None)

    @contextmanager
    def products(self) -> Iterator[None]:
        """What is left in float32 in a 16-bit step, such as the alignment, needs only TF32's 11 bits."""
        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, self.spec.train.precision != "float32"
        try:
            yield
        finally:
            matmul.allow_tf32 = before

    @cached_property
    def map_sample(self) -> Tensor:
        """Validation images for the maps of CKA: bytes (n, 3, H, W), read when first asked for."""
        return evaluation_sample(self.splits.val, self.spec.data, MAP_IMAGES)

    @property
    def student_spec(self) -> BackboneSpec:
        """How to build the student again, whatever its first weights were."""
        wanted, model = self.spec.student, self.student.model
        options = dict(getattr(model, "leapcore_options", wanted.options))
        options.pop("num_classes", None)  # which a backbone's spec does not take
        own: dict[str, Any] = {"weights": "none", "options": options}
        if hasattr(model, "pretrained_cfg"):
            own["model"] = model.pretrained_cfg["architecture"]
        return wanted.model_copy(update=own)


def build(spec: Spec, saved: Checkpoint | None = None, tell: Tell = lambda stage: None) -> RunParts:
    """Build data, models, schedulers, ledger and engine.

    Args:
        spec: The run.
        saved: Where it goes on from; the student's weights and the optimizer's state are taken from there.
        tell: Is told each stage of it.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit.
    """
    ranks = join()
    if device().type == "cpu":
        keep_freed_memory()
    laid = ranks.together(lambda: lay_groundwork(spec, ranks, tell))
    _check_alike(spec, laid, ranks)
    twin = copy.deepcopy(laid.student) if spec.engine.zero_stage == 3 and ranks.first else None
    if saved:
        ranks.together(lambda: saved.restore_weights(laid.distiller))
    tell("starting DeepSpeed")
    engine = Engine(laid.distiller, spec, ranks)
    if saved:
        restore_optimizer_state(engine, saved.optimizer, saved.state["optimizer"])
    if ranks.rank:  # networks that draw random numbers draw others on each process
        seed_everything(mixed(spec.train.seed, ranks.rank))
    rates = lr_schedule(spec.optimizer, laid.length)
    return RunParts(
        **vars(laid), spec=spec, ranks=ranks, device=device(), twin=twin, engine=engine, lr_schedule=rates
    )


def _check_alike(spec: Spec, laid: Groundwork, ranks: Ranks) -> None:
    """All processes must have been started alike, and see the same files."""
    facts = {f"the spec's {key}": value for key, value in flat(spec.model_dump(mode="json"))}
    facts |= {f"the weights of teacher '{t.name}'": t.fingerprint for t in laid.teachers if ranks.size > 1}
    images = len(laid.splits.train)
    ranks.check_alike({"leapcore's version": __version__, "the number of training images": images, **facts})
