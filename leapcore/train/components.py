"""The components that a spec names, each built by the factory that is registered for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from leapcore.cache.features import FeatureCache
from leapcore.cache.key import feature_key
from leapcore.cache.limit import DiskLimit
from leapcore.core.duration import RunLength
from leapcore.core.flops import count_layer_macs
from leapcore.core.losses import FeatureLoss
from leapcore.core.lr import LrSchedule, RestartingCosine, SegmentWarmup, WarmupConstant, WarmupCosine
from leapcore.core.matching import Match
from leapcore.core.norms import TARGET_NORMS
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.core.targets import TARGETS
from leapcore.data.sources import ImageSplits, open_images
from leapcore.distributed.ranks import Ranks
from leapcore.errors import PluginError, SpecError
from leapcore.models.build import build_backbone
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import BackboneSpec, CurriculumSpec, ObjectiveSpec, Spec
from leapcore.spec.training import OptimizerSpec
from leapcore.train.costs import embedding_macs, head_macs
from leapcore.train.schedulers import build_scheduler
from leapcore.train.teacher import Teacher

logger = logging.getLogger(__name__)


def build_teacher(
    spec: Spec,
    name: str,
    provider: LayerFeatureProvider,
    student: LayerFeatureProvider,
    length: RunLength,
    ranks: Ranks,
) -> Teacher:
    """A teacher with its curriculum, the student's match with it, and what both cost.

    Raises:
        SpecError: Objective or curriculum do not fit it.
    """
    try:
        match = _match(spec.objective, student, provider)
        scheduler = _scheduler(spec.curricula[name], match.target.choices, length)
    except SpecError as error:
        whose = f"teachers.{name}: " if spec.teachers else ""
        raise SpecError(whose + error.cause, error.remedy) from error
    return Teacher(
        name=name,
        provider=provider,
        match=match,
        scheduler=scheduler,
        macs=count_layer_macs(provider, norm=match.target_norm),
        embedding_macs=embedding_macs(provider) if match.embedding else 0,
        head_macs=head_macs(match, student, provider),
        batch_size=spec.train.batch_size,
        ranks=ranks,
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


def lr_warmup(spec: OptimizerSpec, run: RunLength) -> int:
    """Steps of the warm-up; LEAP's if left out: 10 epochs, at most a tenth."""
    total, per_epoch = run.total_steps, run.steps_per_epoch
    warmup = spec.warmup.in_steps(per_epoch) if spec.warmup else min(10 * per_epoch, total // 10)
    return min(warmup, total)


def lr_schedule(spec: OptimizerSpec, run: RunLength) -> LrSchedule:
    """The schedule of the spec."""
    total, per_epoch, restart = run.total_steps, run.steps_per_epoch, spec.restart
    warmup = lr_warmup(spec, run)
    if restart is not None and restart.warmup is not None:
        decay = restart.peak_decay or 0.0
        return SegmentWarmup(total, restart.warmup.in_steps(per_epoch), peak_decay=decay)
    if restart is not None:
        options = {} if restart.scale is None else {"scale": restart.scale}
        constant = spec.constant_warmup
        return RestartingCosine(total, warmup, peak=restart.peak, constant_warmup=constant, **options)
    return WarmupConstant(warmup) if spec.schedule == "constant" else WarmupCosine(total, warmup)


def image_splits(spec: Spec) -> ImageSplits:
    """Open the images that a spec names."""
    return open_images(spec.data, spec.train.seed)


def backbone(wanted: BackboneSpec, image_size: int) -> LayerFeatureProvider:
    """Build a teacher or student."""
    return build_backbone(
        wanted.backbone,
        model=wanted.model,
        weights=wanted.weights,
        image_size=image_size,
        options=wanted.options,
    )


def _scheduler(curriculum: CurriculumSpec, num_layers: int, length: RunLength) -> DifficultyScheduler:
    try:
        return build_scheduler(curriculum.scheduler, num_layers, run=length, **curriculum.options)
    except ValueError as error:
        raise SpecError(
            f"curriculum.{error}",
            "Name one of these layers; target: layer+last keeps the last one for itself.",
        ) from error


def give_caches(spec: Spec, teachers: Sequence[Teacher], ranks: Ranks, device: torch.device) -> None:
    """Let each teacher use the cache that the spec asks for, if it does."""
    if spec.cache.folder is None:
        return
    if spec.data.augment.views is None:
        logger.warning(
            "every epoch has views of its own, so the cache helps only another run with the same seed; "
            "set data.augment.views to let views come again in this one"
        )
    limit = DiskLimit(Path(spec.cache.folder).expanduser(), int(spec.cache.limit_gb * 1e9), ranks.size)
    for teacher in teachers:
        key = feature_key(teacher.name, teacher.provider, teacher.match, teacher.fingerprint, spec, device)
        teacher.cache = FeatureCache(teacher.name, key, limit, ranks.rank)
