"""From a spec to everything that a run is made of, in the order in which it is built."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from leapcore._version import __version__
from leapcore.cache.features import FeatureCache
from leapcore.cache.key import feature_key
from leapcore.cache.limit import DiskLimit
from leapcore.checkpoints.files import Checkpoint
from leapcore.compat import keep_freed_memory
from leapcore.core.alignment import WHOLE
from leapcore.core.batch_alignment import BatchAlignment
from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.layer_check import idle_modules
from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import TrainingBatches
from leapcore.data.sources import open_images
from leapcore.data.views import mixed
from leapcore.distributed.ranks import Ranks
from leapcore.errors import DataError, prefix_errors
from leapcore.evaluation.retrieval import read_ground_truth
from leapcore.models.build import backbone_of
from leapcore.models.compile import compile_blocks
from leapcore.models.info import model_facts
from leapcore.spec import Spec
from leapcore.spec.section import flat
from leapcore.train.costs import StepCosts, student_macs, teacher_costs
from leapcore.train.deepspeed import Engine, engine_config
from leapcore.train.objective import build_match
from leapcore.train.parts import AUTOCAST, Data, Models, RunParts
from leapcore.train.schedules import curriculum_scheduler, lr_schedule
from leapcore.train.teacher import Teacher
from leapcore.train.zero_state import restore_optimizer_state

logger = logging.getLogger(__name__)

Report = Callable[[str], None]  # receives what is being done, in a few words


def build(
    spec: Spec, ranks: Ranks, saved: Checkpoint | None = None, report: Report = lambda stage: None
) -> RunParts:
    """Build data, models, schedulers, costs and engine.

    Args:
        spec: The run.
        ranks: The processes that share the work.
        saved: Where it continues; the student's weights and the optimizer's state are taken from there.
        report: Receives each stage of the building, in a few words.

    Raises:
        LeapcoreError: Something that the spec names is missing or does not fit.
    """
    if ranks.device.type == "cpu":
        keep_freed_memory()

    def build_here() -> tuple[Data, Models]:
        engine_config(spec, ranks)  # settings that do not fit are refused before anything is loaded
        seed_everything(spec.train.seed)
        data = build_data(spec, ranks, report)
        models = build_models(spec, data.length, ranks, report)
        warn_of_untrained_modules(models.student)
        place_teachers(spec, models.teachers, ranks, report)
        if saved:
            saved.restore_weights(models.distiller)
        return data, models

    data, models = ranks.on_all(build_here)
    check_equal_everywhere(spec, data, models, ranks)
    student_copy = copy.deepcopy(models.student) if spec.engine.zero_stage == 3 and ranks.is_first else None
    report("starting DeepSpeed")
    engine = Engine(models.distiller, spec, ranks)
    if saved:
        restore_optimizer_state(engine, saved.optimizer, saved.state["optimizer"])
    if ranks.rank:  # networks that draw random numbers draw others on each process
        seed_everything(mixed(spec.train.seed, ranks.rank))
    return RunParts(
        spec=spec,
        ranks=ranks,
        device=ranks.device,
        **data._asdict(),
        **models._asdict(),
        ledger=models.costs.ledger(),
        engine=engine,
        lr_schedule=lr_schedule(spec.optimizer, data.length),
        student_copy=student_copy,
    )


def seed_everything(seed: int) -> None:
    """Seed all that draws random numbers."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def build_data(spec: Spec, ranks: Ranks, report: Report) -> Data:
    """Open the images, and check what evaluations need of them."""
    data, train = spec.data, spec.train
    folders = f"in {data.train} and {data.val}"
    report(f"opening the images {folders if data.source == 'folder' else f'of {data.source}'}")
    splits = open_images(data, train.seed)
    if spec.evaluate.needs_images and len(splits.val) == 0:
        raise DataError(
            "there are no validation images",
            "Check data.source and data.val, or evaluate nothing: knn, linear and cka_map: never.",
        )
    for folder in spec.evaluate.retrieval:  # a fault there shows before the training, not after
        read_ground_truth(Path(folder))
    digests = spec.cache.folder is not None
    batches = TrainingBatches(splits.train, data, train.batch_size, train.seed, ranks, digests=digests)
    length = RunLength(train.duration.in_steps(batches.steps_per_epoch), batches.steps_per_epoch)
    return Data(splits, batches, length)


def build_models(spec: Spec, length: RunLength, ranks: Ranks, report: Report = lambda stage: None) -> Models:
    """Build teachers, student, their matches and curricula, and count what steps cost."""
    providers = {}
    for name, backbone in spec.each_teacher.items():
        report(f"building the teacher{f' {name}' * bool(spec.teachers)}")
        with prefix_errors(f"teachers.{name}" if spec.teachers else name):
            providers[name] = backbone_of(backbone, spec.data.image_size).eval().requires_grad_(False)
    report("building the student")
    with prefix_errors("student"):
        student = backbone_of(spec.student, spec.data.image_size)
    report("counting FLOPs")
    teachers = [
        build_teacher(spec, name, provider, student, length, ranks) for name, provider in providers.items()
    ]
    distiller = Distiller(
        student,
        {teacher.name: teacher.match for teacher in teachers},
        weights={name: backbone.weight for name, backbone in spec.each_teacher.items()},
        sigreg=spec.objective.sigreg,
        gather=ranks.all_gather_rows,
    )
    counts = {t.name: teacher_costs(t.provider, student, t.match, t.alignment) for t in teachers}
    costs = StepCosts(spec.train.batch_size, student_macs(distiller), counts)
    return Models(
        student,
        teachers,
        distiller,
        costs,
        model_facts(spec.student, student, costs.student_macs(costs.deepest)),
        {t.name: model_facts(spec.each_teacher[t.name], t.provider, counts[t.name].whole) for t in teachers},
    )


def build_teacher(
    spec: Spec,
    name: str,
    provider: LayerFeatureProvider,
    student: LayerFeatureProvider,
    length: RunLength,
    ranks: Ranks,
) -> Teacher:
    """A teacher with its curriculum and the student's match with it.

    Raises:
        SpecError: Objective or curriculum do not fit it.
    """
    batch_size, parts = spec.train.batch_size, WHOLE if ranks.size == 1 else ranks
    with prefix_errors(f"teachers.{name}") if spec.teachers else nullcontext():
        match = build_match(spec.objective, student, provider)
        scheduler = curriculum_scheduler(spec.curricula[name], match.target.choices, length)
    alignment = None
    if scheduler.alignment is not None:
        alignment = BatchAlignment(
            scheduler.alignment,
            batch_size,
            scheduler.sample_images,
            parts=parts,
            share=ranks.share(batch_size),
        )
    return Teacher(name, provider, match, scheduler, alignment)


def place_teachers(spec: Spec, teachers: list[Teacher], ranks: Ranks, report: Report) -> None:
    """Put the teachers where they compute, compiled and with a cache where the spec asks for it."""
    report("checking the teachers' weights" if spec.teachers else "checking the teacher's weights")
    for teacher in teachers:
        teacher.place(ranks.device, AUTOCAST[spec.train.precision])
        if spec.engine.compile:
            compile_blocks(teacher.provider, ranks.device)
    if spec.cache.folder is not None:
        attach_caches(spec, spec.cache.folder, teachers, ranks)


def attach_caches(spec: Spec, folder: str, teachers: list[Teacher], ranks: Ranks) -> None:
    """Let each teacher keep its features in a folder."""
    if spec.data.augment.views is None:
        logger.warning(
            "every epoch has views of its own, so the cache helps only another run with the same seed; "
            "set data.augment.views to let views come again in this one"
        )
    limit = DiskLimit(Path(folder).expanduser(), int(spec.cache.limit_gb * 1e9), ranks.size)
    for teacher in teachers:
        key = feature_key(
            teacher.name, teacher.provider, teacher.match, teacher.fingerprint, spec, ranks.device
        )
        teacher.cache = FeatureCache(teacher.name, key, limit, ranks.rank)


def warn_of_untrained_modules(student: LayerFeatureProvider) -> None:
    """Warn of modules behind the last layer, which no gradient reaches."""
    idle, total = idle_modules(student), sum(p.numel() for p in student.parameters())
    if sum(idle.values()) > 0.01 * total:
        logger.warning(
            "%.0f%% of the student's parameters are never trained; its last layer does not need them: %s",
            100 * sum(idle.values()) / total,
            ", ".join(list(idle)[:3]) + (", …" if len(idle) > 3 else ""),
        )


def check_equal_everywhere(spec: Spec, data: Data, models: Models, ranks: Ranks) -> None:
    """Make sure that all processes were started alike, and see the same files.

    Raises:
        RanksError: Something differs.
    """
    facts = {f"the spec's {key}": value for key, value in flat(spec.model_dump(mode="json"))}
    if ranks.size > 1:
        facts |= {f"the weights of teacher '{t.name}'": t.fingerprint for t in models.teachers}
    images = len(data.splits.train)
    ranks.check_equal({"leapcore's version": __version__, "the number of training images": images, **facts})
