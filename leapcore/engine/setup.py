"""From a spec to everything that a run is made of."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leapcore._version import __version__
from leapcore.compat import keep_freed_memory
from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.flops import FlopsLedger
from leapcore.core.layer_check import idle_modules
from leapcore.core.lr import LrSchedule
from leapcore.core.provider import LayerFeatureProvider
from leapcore.engine.cache.features import give_caches
from leapcore.engine.checkpoint import Checkpoint
from leapcore.engine.compiling import compile_blocks
from leapcore.engine.components import backbone, build_teacher, image_splits, lr_schedule
from leapcore.engine.costs import student_macs
from leapcore.engine.data import TrainingBatches, evaluation_sample
from leapcore.engine.deepspeed import Engine, device, engine_config
from leapcore.engine.facts import model_facts
from leapcore.engine.ranks import Ranks, join
from leapcore.engine.sharded import restore_optimizer_state
from leapcore.engine.sources import ImageSplits
from leapcore.engine.teachers import Teacher
from leapcore.engine.views import mixed
from leapcore.errors import told_of
from leapcore.evaluation.retrieval import read_ground_truth
from leapcore.events import ModelFacts
from leapcore.section import flat
from leapcore.spec import BackboneSpec, Spec

logger = logging.getLogger(__name__)

MAP_IMAGES = 256  # on which the layers' alignments are mapped

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Parts:
    """A run, built and ready for its first step.

    Attributes:
        spec: The resolved spec.
        ranks: The processes that share the work.
        device: Where this one computes.
        splits: Training and validation images.
        batches: Augmented batches of the training images.
        teachers: Each with its curriculum.
        student: The backbone inside the engine.
        twin: A plain copy of it that its weights are put into where the engine partitions them; on the
            first process only.
        engine: Trains the distiller.
        lr_schedule: The course of the learning rate.
        student_macs: MACs per image of the student without projectors.
        ledger: Counts FLOPs.
        total_steps: Length of the run.
        teacher_facts: What the summary says about the teachers, by name.
        student_facts: What it says about the student; its FLOPs include the projectors'.
    """

    spec: Spec
    ranks: Ranks
    device: torch.device
    splits: ImageSplits
    batches: TrainingBatches
    teachers: list[Teacher]
    student: LayerFeatureProvider
    twin: LayerFeatureProvider | None
    engine: Engine
    lr_schedule: LrSchedule
    student_macs: int
    ledger: FlopsLedger
    total_steps: int
    teacher_facts: dict[str, ModelFacts]
    student_facts: ModelFacts

    def autocast(self) -> torch.autocast:
        """The precision of the spec, as a context."""
        kind = _AUTOCAST[self.spec.train.precision]
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


@dataclass
class _Plan:
    """What every process builds by itself before they join."""

    splits: ImageSplits
    batches: TrainingBatches
    length: RunLength
    teachers: list[Teacher]
    student: LayerFeatureProvider
    distiller: Distiller
    student_macs: int
    ledger: FlopsLedger
    teacher_facts: dict[str, ModelFacts]
    student_facts: ModelFacts


Tell = Callable[[str], None]  # is told what is being done


def build(spec: Spec, saved: Checkpoint | None = None, tell: Tell = lambda stage: None) -> Parts:
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
    plan = ranks.together(lambda: _plan(spec, ranks, tell))
    facts = {f"the spec's {key}": value for key, value in flat(spec.model_dump(mode="json"))}
    facts |= {f"the weights of teacher '{t.name}'": t.fingerprint for t in plan.teachers if ranks.size > 1}
    images = len(plan.splits.train)  # type: ignore[arg-type]
    ranks.check_alike({"leapcore's version": __version__, "the number of training images": images, **facts})
    twin = copy.deepcopy(plan.student) if spec.engine.zero_stage == 3 and ranks.first else None
    if saved:
        ranks.together(lambda: saved.restore_weights(plan.distiller))
    tell("starting DeepSpeed")
    engine = Engine(plan.distiller, spec, ranks)
    if saved:
        restore_optimizer_state(engine, saved.optimizer, saved.state["optimizer"])
    if ranks.rank:  # networks that draw random numbers draw others on each process
        _seed_everything(mixed(spec.train.seed, ranks.rank))
    return Parts(
        spec=spec,
        ranks=ranks,
        device=device(),
        splits=plan.splits,
        batches=plan.batches,
        teachers=plan.teachers,
        student=plan.student,
        twin=twin,
        engine=engine,
        lr_schedule=lr_schedule(spec.optimizer, plan.length),
        student_macs=plan.student_macs,
        ledger=plan.ledger,
        total_steps=plan.length.total_steps,
        teacher_facts=plan.teacher_facts,
        student_facts=plan.student_facts,
    )


def _plan(spec: Spec, ranks: Ranks, tell: Tell) -> _Plan:
    engine_config(spec, ranks)  # refused here, it is so before anything is loaded
    _seed_everything(spec.train.seed)
    tell(f"opening the images of {spec.data.source}")
    splits = image_splits(spec)
    for folder in spec.evaluate.retrieval:  # a fault there is better found before the training than after
        read_ground_truth(Path(folder))
    batches = TrainingBatches(
        splits.train,
        spec.data,
        spec.train.batch_size,
        spec.train.seed,
        ranks,
        named=spec.cache.folder is not None,
    )
    providers = {}
    for name, wanted in spec.each_teacher.items():
        tell(f"building the teacher{f' {name}' * bool(spec.teachers)}")
        providers[name] = _backbone(name, wanted, spec).eval().requires_grad_(False)
    tell("building the student")
    student = _backbone("student", spec.student, spec)
    _warn_of_idle_modules(student)
    tell("counting FLOPs")
    length = RunLength(spec.train.duration.in_steps(batches.steps_per_epoch), batches.steps_per_epoch)
    teachers = [
        build_teacher(spec, name, provider, student, length, ranks) for name, provider in providers.items()
    ]
    give_caches(spec, teachers, ranks, device())
    distiller = Distiller(
        student,
        {teacher.name: teacher.match for teacher in teachers},
        weights={name: wanted.weight for name, wanted in spec.each_teacher.items()},
        sigreg_weight=spec.objective.sigreg,
        joined=ranks.joined,
    )
    macs = student_macs(distiller)
    ledger = _ledger(macs, teachers)
    facts = {t.name: model_facts(spec.each_teacher[t.name], t.provider, t.macs.whole) for t in teachers}
    student_facts = model_facts(spec.student, student, ledger.student_macs)
    tell("checking the teachers' weights" if spec.teachers else "checking the teacher's weights")
    for teacher in teachers:
        teacher.place(device(), _AUTOCAST[spec.train.precision])
        if spec.engine.compile:
            compile_blocks(teacher.provider, device())
    return _Plan(splits, batches, length, teachers, student, distiller, macs, ledger, facts, student_facts)


def _backbone(name: str, wanted: BackboneSpec, spec: Spec) -> LayerFeatureProvider:
    with told_of(f"teachers.{name}" if name in spec.teachers else name):
        return backbone(wanted, spec.data.image_size)


def _warn_of_idle_modules(student: LayerFeatureProvider) -> None:
    idle, total = idle_modules(student), sum(p.numel() for p in student.parameters())
    if sum(idle.values()) > 0.01 * total:
        logger.warning(
            "%.0f%% of the student's parameters are never trained; its last layer does not need them: %s",
            100 * sum(idle.values()) / total,
            ", ".join(list(idle)[:3]) + (", …" if len(idle) > 3 else ""),
        )


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _ledger(student: int, teachers: list[Teacher]) -> FlopsLedger:
    """The baseline is the deepest target of each teacher."""
    heads = sum(teacher.head_macs[-1] for teacher in teachers)
    return FlopsLedger(sum(teacher.baseline_macs for teacher in teachers), student + heads)
