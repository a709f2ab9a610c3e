"""From a spec to everything that a run is made of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.features import LayerFeatureProvider
from leapcore.core.flops import FlopsLedger, count_all_prefix_macs, count_macs
from leapcore.core.lr import LrSchedule, RestartingCosine, SegmentWarmup, WarmupConstant, WarmupCosine
from leapcore.core.projection import Projector
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.engine.data import TrainingBatches
from leapcore.engine.deepspeed import device, wrap
from leapcore.engine.sources import ImageSplits
from leapcore.errors import SpecError
from leapcore.events import ModelFacts
from leapcore.options import checked_options
from leapcore.plugins import installed_plugins
from leapcore.spec import BackboneSpec, CurriculumSpec, OptimizerSpec, Spec


@dataclass
class Parts:
    """A run, built and ready for its first step.

    Attributes:
        spec: The resolved spec.
        device: Where it computes.
        splits: Training and validation images.
        batches: Augmented batches of the training images.
        teacher: Frozen, in eval mode.
        student: The backbone inside the engine.
        projector: The heads inside the engine.
        engine: DeepSpeed around the distiller.
        scheduler: Chooses the target layer.
        lr_schedule: The course of the learning rate.
        ledger: Counts FLOPs.
        total_steps: Length of the run.
    """

    spec: Spec
    device: torch.device
    splits: ImageSplits
    batches: TrainingBatches
    teacher: LayerFeatureProvider
    student: LayerFeatureProvider
    projector: Projector
    engine: Any
    scheduler: DifficultyScheduler
    lr_schedule: LrSchedule
    ledger: FlopsLedger
    total_steps: int

    @property
    def teacher_facts(self) -> ModelFacts:
        """What the summary says about the teacher."""
        return _facts(self.spec.teacher, self.teacher, self.ledger.teacher_macs[-1])

    @property
    def student_facts(self) -> ModelFacts:
        """What the summary says about the student; its FLOPs include the projector's."""
        return _facts(self.spec.student, self.student, self.ledger.student_macs)


def build(spec: Spec) -> Parts:
    """Build data, models, scheduler, ledger and engine.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit.
    """
    _seed_everything(spec.train.seed)
    splits = image_splits(spec)
    batches = TrainingBatches(splits.train, spec.data, spec.train.batch_size, spec.train.seed)
    teacher = backbone(spec.teacher, spec.data.image_size).eval().requires_grad_(False)
    student = backbone(spec.student, spec.data.image_size)
    scheduler = _scheduler(spec.curriculum, len(teacher.layers))
    patch_loss = installed_plugins().get("losses", spec.objective.patch)
    objective = spec.objective
    projector = Projector(
        student.layers[-1].channels,
        [layer.channels for layer in teacher.layers],
        separate_cls=objective.cls_head == "separate",
    )
    distiller = Distiller(student, projector, patch_loss, objective.cls_weight, objective.sigreg)
    length = RunLength(spec.train.duration.in_steps(batches.steps_per_epoch), batches.steps_per_epoch)
    scheduler.run = length
    lr_schedule = _lr_schedule(spec.optimizer, length)
    return Parts(
        spec=spec,
        device=device(),
        splits=splits,
        batches=batches,
        ledger=_ledger(teacher, distiller),
        teacher=teacher.to(device()),
        student=student,
        projector=projector,
        engine=wrap(distiller, spec, lr_schedule),
        scheduler=scheduler,
        lr_schedule=lr_schedule,
        total_steps=length.total_steps,
    )


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
    splits: ImageSplits = installed_plugins().get("datasets", family)(spec.data, name, spec.train.seed)
    return splits


def backbone(wanted: BackboneSpec, image_size: int) -> LayerFeatureProvider:
    """Build a teacher or student."""
    provider: LayerFeatureProvider = installed_plugins().get("backbones", wanted.backbone)(
        model=wanted.model, weights=wanted.weights, image_size=image_size, options=wanted.options
    )
    return provider


def _scheduler(curriculum: CurriculumSpec, num_layers: int) -> DifficultyScheduler:
    factory = installed_plugins().get("schedulers", curriculum.scheduler)
    try:
        scheduler: DifficultyScheduler = factory(num_layers, **checked_options(factory, curriculum.options))
    except ValueError as error:
        raise SpecError(f"curriculum.{error}", "Name a layer that the teacher has.") from error
    return scheduler


def _ledger(teacher: LayerFeatureProvider, distiller: Distiller) -> FlopsLedger:
    """Count teacher and student, each for one image."""
    prefixes = count_all_prefix_macs(teacher, (3, *teacher.image_input.size))
    channels = teacher.layers[-1].channels
    size = distiller.student.image_input.size
    student = count_macs(_StudentSide(distiller, channels), torch.empty(1, 3, *size))
    return FlopsLedger(prefixes, student)


class _StudentSide(nn.Module):
    """The student's forward pass and the projector, as the ledger counts them."""

    def __init__(self, distiller: Distiller, channels: int) -> None:
        super().__init__()
        self.student = distiller.student
        self.projector = distiller.projector
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.student(images, [len(self.student.layers) - 1])
        projected = self.projector(features, self.channels)
        return torch.cat([projected.tokens.flatten(), projected.pooled.flatten()])


def _facts(backbone: BackboneSpec, provider: LayerFeatureProvider, macs: int) -> ModelFacts:
    name = backbone.model or backbone.weights
    return ModelFacts(name, len(provider.layers), sum(p.numel() for p in provider.parameters()), macs)
