"""What every process of a run builds by itself, before they join: images, models, curricula, costs."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.flops import FlopsLedger
from leapcore.core.layer_check import idle_modules
from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import TrainingBatches
from leapcore.data.sources import ImageSplits
from leapcore.distributed.ranks import Ranks, device
from leapcore.errors import DataError, prefix_errors
from leapcore.evaluation.retrieval import read_ground_truth
from leapcore.models.compile import compile_blocks
from leapcore.models.info import model_facts
from leapcore.plugins.events import ModelFacts
from leapcore.spec import BackboneSpec, Spec
from leapcore.train.components import backbone, build_teacher, give_caches, image_splits
from leapcore.train.costs import empty_ledger, student_macs
from leapcore.train.deepspeed import engine_config
from leapcore.train.teacher import Teacher

logger = logging.getLogger(__name__)

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
Tell = Callable[[str], None]  # is told what is being done


@dataclass
class Groundwork:
    """Data and models of a run.

    Attributes:
        splits: Training and validation images.
        batches: Augmented batches of the training images.
        length: Of the run.
        teachers: Each with its curriculum.
        student: The backbone that is trained.
        distiller: The student with its heads; what the engine trains.
        student_macs: MACs per image of the student without projectors.
        ledger: Counts FLOPs.
        teacher_facts: What the summary says about the teachers, by name.
        student_facts: What it says about the student; its FLOPs include the projectors'.
    """

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


def lay_groundwork(spec: Spec, ranks: Ranks, tell: Tell) -> Groundwork:
    """Build all that needs no engine; the same on every process.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit.
    """
    engine_config(spec, ranks)  # refused here, it is so before anything is loaded
    seed_everything(spec.train.seed)
    data = spec.data
    folders = f"in {data.train} and {data.val}"
    tell(f"opening the images {folders if data.source == 'folder' else f'of {data.source}'}")
    splits = _splits(spec)
    batches = _batches(spec, splits, ranks)
    providers, student = _backbones(spec, tell)
    tell("counting FLOPs")
    length = RunLength(spec.train.duration.in_steps(batches.steps_per_epoch), batches.steps_per_epoch)
    teachers = [build_teacher(spec, name, found, student, length, ranks) for name, found in providers.items()]
    give_caches(spec, teachers, ranks, device())
    distiller = _distiller(spec, student, teachers, ranks)
    macs = student_macs(distiller)
    ledger = empty_ledger(teachers, macs)
    facts = {t.name: model_facts(spec.each_teacher[t.name], t.provider, t.macs.whole) for t in teachers}
    student_facts = model_facts(spec.student, student, ledger.student_macs)
    tell("checking the teachers' weights" if spec.teachers else "checking the teacher's weights")
    _place(spec, teachers)
    return Groundwork(
        splits, batches, length, teachers, student, distiller, macs, ledger, facts, student_facts
    )


def seed_everything(seed: int) -> None:
    """Seed all that draws random numbers."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _splits(spec: Spec) -> ImageSplits:
    splits = image_splits(spec)
    if spec.evaluate.needs_images and len(splits.val) == 0:
        raise DataError(
            "there are no validation images",
            "Check data.source and data.val, or evaluate nothing: knn, linear and cka_map: never.",
        )
    for folder in spec.evaluate.retrieval:  # a fault there is better found before the training than after
        read_ground_truth(Path(folder))
    return splits


def _batches(spec: Spec, splits: ImageSplits, ranks: Ranks) -> TrainingBatches:
    named, train = spec.cache.folder is not None, spec.train
    return TrainingBatches(splits.train, spec.data, train.batch_size, train.seed, ranks, named=named)


def _backbones(spec: Spec, tell: Tell) -> tuple[dict[str, LayerFeatureProvider], LayerFeatureProvider]:
    """The teachers, frozen, and the student."""
    providers = {}
    for name, wanted in spec.each_teacher.items():
        tell(f"building the teacher{f' {name}' * bool(spec.teachers)}")
        providers[name] = _backbone(name, wanted, spec).eval().requires_grad_(False)
    tell("building the student")
    student = _backbone("student", spec.student, spec)
    _warn_of_idle_modules(student)
    return providers, student


def _backbone(name: str, wanted: BackboneSpec, spec: Spec) -> LayerFeatureProvider:
    with prefix_errors(f"teachers.{name}" if name in spec.teachers else name):
        return backbone(wanted, spec.data.image_size)


def _warn_of_idle_modules(student: LayerFeatureProvider) -> None:
    idle, total = idle_modules(student), sum(p.numel() for p in student.parameters())
    if sum(idle.values()) > 0.01 * total:
        logger.warning(
            "%.0f%% of the student's parameters are never trained; its last layer does not need them: %s",
            100 * sum(idle.values()) / total,
            ", ".join(list(idle)[:3]) + (", …" if len(idle) > 3 else ""),
        )


def _distiller(spec: Spec, student: LayerFeatureProvider, teachers: list[Teacher], ranks: Ranks) -> Distiller:
    return Distiller(
        student,
        {teacher.name: teacher.match for teacher in teachers},
        weights={name: wanted.weight for name, wanted in spec.each_teacher.items()},
        sigreg_weight=spec.objective.sigreg,
        joined=ranks.joined,
    )


def _place(spec: Spec, teachers: list[Teacher]) -> None:
    for teacher in teachers:
        teacher.place(device(), AUTOCAST[spec.train.precision])
        if spec.engine.compile:
            compile_blocks(teacher.provider, device())
