"""From a spec to everything that a run is made of."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leapcore.backbones import build_backbone
from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.flops import FlopsLedger, count_layer_macs
from leapcore.core.layer_check import idle_modules
from leapcore.core.losses import FeatureLoss
from leapcore.core.lr import LrSchedule, RestartingCosine, SegmentWarmup, WarmupConstant, WarmupCosine
from leapcore.core.matching import Match
from leapcore.core.norms import TARGET_NORMS
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.core.targets import TARGETS
from leapcore.engine.costs import embedding_macs, head_macs, student_macs
from leapcore.engine.data import TrainingBatches
from leapcore.engine.deepspeed import device, wrap
from leapcore.engine.sources import ImageSplits
from leapcore.engine.teachers import Teacher
from leapcore.errors import PluginError, SpecError
from leapcore.evaluation.retrieval import read_ground_truth
from leapcore.events import ModelFacts
from leapcore.options import checked_options
from leapcore.plugins import installed_plugins
from leapcore.spec import BackboneSpec, CurriculumSpec, ObjectiveSpec, OptimizerSpec, Spec

logger = logging.getLogger(__name__)


@dataclass
class Parts:
    """A run, built and ready for its first step.

    Attributes:
        spec: The resolved spec.
        device: Where it computes.
        splits: Training and validation images.
        batches: Augmented batches of the training images.
        teachers: Each with its curriculum.
        student: The backbone inside the engine.
        engine: DeepSpeed around the distiller.
        lr_schedule: The course of the learning rate.
        student_macs: MACs per image of the student without projectors.
        ledger: Counts FLOPs.
        total_steps: Length of the run.
    """

    spec: Spec
    device: torch.device
    splits: ImageSplits
    batches: TrainingBatches
    teachers: list[Teacher]
    student: LayerFeatureProvider
    engine: Any
    lr_schedule: LrSchedule
    student_macs: int
    ledger: FlopsLedger
    total_steps: int

    @property
    def teacher_facts(self) -> dict[str, ModelFacts]:
        """What the summary says about the teachers, by name."""
        wanted = self.spec.each_teacher
        return {t.name: _facts(wanted[t.name], t.provider, t.macs.whole) for t in self.teachers}

    @property
    def student_facts(self) -> ModelFacts:
        """What the summary says about the student; its FLOPs include the projectors'."""
        return _facts(self.spec.student, self.student, self.ledger.student_macs)


def build(spec: Spec) -> Parts:
    """Build data, models, schedulers, ledger and engine.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit.
    """
    _seed_everything(spec.train.seed)
    splits = image_splits(spec)
    for folder in spec.evaluate.retrieval:  # a fault there is better found before the training than after
        read_ground_truth(Path(folder))
    batches = TrainingBatches(splits.train, spec.data, spec.train.batch_size, spec.train.seed)
    providers = {
        name: backbone(wanted, spec.data.image_size).eval().requires_grad_(False)
        for name, wanted in spec.each_teacher.items()
    }
    student = backbone(spec.student, spec.data.image_size)
    _warn_of_idle_modules(student)
    length = RunLength(spec.train.duration.in_steps(batches.steps_per_epoch), batches.steps_per_epoch)
    teachers = [_teacher(spec, name, provider, student, length) for name, provider in providers.items()]
    distiller = Distiller(
        student,
        {teacher.name: teacher.match for teacher in teachers},
        weights={name: wanted.weight for name, wanted in spec.each_teacher.items()},
        sigreg_weight=spec.objective.sigreg,
    )
    lr_schedule = _lr_schedule(spec.optimizer, length)
    macs = student_macs(distiller)
    for provider in providers.values():
        provider.to(device())
    return Parts(
        spec=spec,
        device=device(),
        splits=splits,
        batches=batches,
        teachers=teachers,
        student=student,
        engine=wrap(distiller, spec, lr_schedule),
        lr_schedule=lr_schedule,
        student_macs=macs,
        ledger=_ledger(macs, teachers),
        total_steps=length.total_steps,
    )


def _warn_of_idle_modules(student: LayerFeatureProvider) -> None:
    idle, total = idle_modules(student), sum(p.numel() for p in student.parameters())
    if sum(idle.values()) > 0.01 * total:
        logger.warning(
            "%.0f%% of the student's parameters are never trained; its last layer does not need them: %s",
            100 * sum(idle.values()) / total,
            ", ".join(list(idle)[:3]) + (", …" if len(idle) > 3 else ""),
        )


def _teacher(
    spec: Spec, name: str, provider: LayerFeatureProvider, student: LayerFeatureProvider, length: RunLength
) -> Teacher:
    try:
        match = _match(spec.objective, student, provider)
        scheduler = _scheduler(spec.curricula[name], match.target.choices)
    except SpecError as error:
        whose = f"teachers.{name}: " if spec.teachers else ""
        raise SpecError(whose + error.cause, error.remedy) from error
    scheduler.run = length
    return Teacher(
        name=name,
        provider=provider,
        match=match,
        scheduler=scheduler,
        macs=count_layer_macs(provider, norm=match.target_norm),
        embedding_macs=embedding_macs(provider) if match.embedding else 0,
        head_macs=head_macs(match, student, provider),
        batch_size=spec.train.batch_size,
    )


def _match(objective: ObjectiveSpec, student: LayerFeatureProvider, teacher: LayerFeatureProvider) -> Match:
    try:
        return Match(
            student,
            teacher,
            target=TARGETS[objective.target],
            patch_loss=_patch_loss(objective.patch),
            cls_weight=objective.cls_weight,
            separate_cls=objective.cls_head == "separate",
            sum_pairs=objective.reduction == "sum",
            embedding_weight=objective.patch_embedding,
            target_norm=TARGET_NORMS[objective.target_norm],
            upsample=objective.grid == "larger",
        )
    except ValueError as error:
        raise SpecError(
            f"objective: {error}", "Leave out target or patch_embedding, or take other backbones."
        ) from error


def _patch_loss(name: str) -> FeatureLoss:
    """The loss of that name, tried once: a plugin's fault is better found before the first step."""
    plugins, one = installed_plugins(), torch.ones(1, 2, 3)
    loss: FeatureLoss = plugins.get("losses", name)
    try:
        found = loss(one, one)
    # A stranger's function can fail in any way.
    except Exception as error:
        found, said = None, f"fails with {type(error).__name__}: {error}"
    else:
        said = f"returns {tuple(found.shape)}" if isinstance(found, Tensor) else f"returns {found!r}"
    if not isinstance(found, Tensor) or found.ndim:
        raise PluginError(
            f"the loss '{name}' of plugin {plugins.owner('losses', name)} {said} for two tensors (1, 2, 3)",
            "Write it as (projected, target) -> scalar tensor.",
        )
    return loss


def _lr_schedule(spec: OptimizerSpec, run: RunLength) -> LrSchedule:
    """The schedule of the spec; its warm-up is LEAP's if left out: 10 epochs, at most a tenth."""
    total, per_epoch, restart = run.total_steps, run.steps_per_epoch, spec.restart
    warmup = spec.warmup.in_steps(per_epoch) if spec.warmup else min(10 * per_epoch, total // 10)
    warmup = min(warmup, total)
    if restart is not None and restart.warmup is not None:
        decay = restart.peak_decay or 0.0
        return SegmentWarmup(total, restart.warmup.in_steps(per_epoch), peak_decay=decay)
    if restart is not None:
        options = {} if restart.scale is None else {"scale": restart.scale}
        constant = spec.constant_warmup
        return RestartingCosine(total, warmup, peak=restart.peak, constant_warmup=constant, **options)
    return WarmupConstant(warmup) if spec.schedule == "constant" else WarmupCosine(total, warmup)


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def image_splits(spec: Spec) -> ImageSplits:
    """Open the images that a spec names."""
    family, _, name = spec.data.source.partition("/")
    plugins = installed_plugins()
    splits = plugins.get("datasets", family)(spec.data, name, spec.train.seed)
    if not isinstance(splits, ImageSplits):
        raise PluginError(
            f"the data source '{family}' of plugin {plugins.owner('datasets', family)} returns a "
            f"{type(splits).__name__}",
            "Return ImageSplits(train, val).",
        )
    return splits


def backbone(wanted: BackboneSpec, image_size: int) -> LayerFeatureProvider:
    """Build a teacher or student."""
    return build_backbone(
        wanted.backbone,
        model=wanted.model,
        weights=wanted.weights,
        image_size=image_size,
        options=wanted.options,
    )


def _scheduler(curriculum: CurriculumSpec, num_layers: int) -> DifficultyScheduler:
    factory = installed_plugins().get("schedulers", curriculum.scheduler)
    try:
        scheduler: DifficultyScheduler = factory(num_layers, **checked_options(factory, curriculum.options))
    except ValueError as error:
        raise SpecError(
            f"curriculum.{error}",
            "Name one of these layers; target: layer+last keeps the last one for itself.",
        ) from error
    return scheduler


def _ledger(student: int, teachers: list[Teacher]) -> FlopsLedger:
    """The baseline is the deepest target of each teacher."""
    heads = sum(teacher.head_macs[-1] for teacher in teachers)
    return FlopsLedger(sum(teacher.baseline_macs for teacher in teachers), student + heads)


def _facts(backbone: BackboneSpec, provider: LayerFeatureProvider, macs: int) -> ModelFacts:
    name = backbone.model or backbone.weights
    return ModelFacts(name, len(provider.layers), sum(p.numel() for p in provider.parameters()), macs)
