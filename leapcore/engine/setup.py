"""From a spec to everything that a run is made of."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.features import LayerFeatureProvider
from leapcore.core.flops import FlopsLedger, count_layer_macs, count_macs
from leapcore.core.lr import LrSchedule, RestartingCosine, SegmentWarmup, WarmupConstant, WarmupCosine
from leapcore.core.matching import Match
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.core.targets import TARGETS
from leapcore.engine.data import TrainingBatches
from leapcore.engine.deepspeed import device, wrap
from leapcore.engine.sources import ImageSplits
from leapcore.engine.teachers import Teacher
from leapcore.errors import SpecError
from leapcore.evaluation.retrieval import read_ground_truth
from leapcore.events import ModelFacts
from leapcore.options import checked_options
from leapcore.plugins import installed_plugins
from leapcore.spec import BackboneSpec, CurriculumSpec, ObjectiveSpec, OptimizerSpec, Spec


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
    length = RunLength(spec.train.duration.in_steps(batches.steps_per_epoch), batches.steps_per_epoch)
    teachers = [_teacher(spec, name, provider, student, length) for name, provider in providers.items()]
    distiller = Distiller(
        student,
        {teacher.name: teacher.match for teacher in teachers},
        weights={name: wanted.weight for name, wanted in spec.each_teacher.items()},
        sigreg_weight=spec.objective.sigreg,
    )
    lr_schedule = _lr_schedule(spec.optimizer, length)
    ledger = _ledger(distiller, teachers)
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
        ledger=ledger,
        total_steps=length.total_steps,
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
    shape = (3, *provider.image_input.size)
    embedding = count_macs(_Embedding(provider), torch.empty(1, *shape)) if match.embedding else 0
    return Teacher(
        name=name,
        provider=provider,
        match=match,
        scheduler=scheduler,
        macs=count_layer_macs(provider, shape),
        embedding_macs=embedding,
        batch_size=spec.train.batch_size,
    )


def _match(objective: ObjectiveSpec, student: LayerFeatureProvider, teacher: LayerFeatureProvider) -> Match:
    try:
        return Match(
            student,
            teacher,
            target=TARGETS[objective.target],
            patch_loss=installed_plugins().get("losses", objective.patch),
            cls_weight=objective.cls_weight,
            separate_cls=objective.cls_head == "separate",
            sum_pairs=objective.reduction == "sum",
            embedding_weight=objective.patch_embedding,
        )
    except ValueError as error:
        raise SpecError(
            f"objective: {error}", "Leave out target or patch_embedding, or take other backbones."
        ) from error


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
        raise SpecError(
            f"curriculum.{error}",
            "Name one of these layers; target: layer+last keeps the last one for itself.",
        ) from error
    return scheduler


def _ledger(distiller: Distiller, teachers: list[Teacher]) -> FlopsLedger:
    """Count the student for one image; the teachers are counted already."""
    size = distiller.student.image_input.size
    student = count_macs(_StudentSide(distiller, teachers), torch.empty(1, 3, *size))
    return FlopsLedger(sum(teacher.baseline_macs for teacher in teachers), student)


class _StudentSide(nn.Module):
    """The student's forward pass and the projectors, each to the width of its deepest layer."""

    def __init__(self, distiller: Distiller, teachers: list[Teacher]) -> None:
        super().__init__()
        self.distiller = distiller
        self.teachers = teachers

    def forward(self, images: Tensor) -> Tensor:
        features, results = self.distiller.student_features(images), []
        for teacher in self.teachers:
            for pair, project in zip(teacher.deepest_pairs, teacher.match.projectors, strict=True):
                width = teacher.provider.layers[pair.teacher].channels
                projected = project(features.layers[pair.student], width)
                results += [projected.tokens, projected.pooled]
            if teacher.match.embedding and features.embedding:
                embedding = teacher.match.embedding
                results.append(features.embedding.map(embedding.head).map(embedding.norm).tokens)
        return torch.cat([result.flatten() for result in results])


class _Embedding(nn.Module):
    """A provider's patch embedding alone."""

    def __init__(self, provider: LayerFeatureProvider) -> None:
        super().__init__()
        self.provider = provider

    def forward(self, images: Tensor) -> Tensor:
        return self.provider.embed(images).tokens


def _facts(backbone: BackboneSpec, provider: LayerFeatureProvider, macs: int) -> ModelFacts:
    name = backbone.model or backbone.weights
    return ModelFacts(name, len(provider.layers), sum(p.numel() for p in provider.parameters()), macs)
