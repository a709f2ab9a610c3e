"""What a run is made of: its images, its models, and what trains them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from leapcore.core.distiller import Distiller
from leapcore.core.duration import RunLength
from leapcore.core.flops import FlopsLedger
from leapcore.core.lr import LrSchedule
from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import TrainingBatches, evaluation_sample
from leapcore.data.sources import ImageSplits
from leapcore.distributed.ranks import Ranks
from leapcore.plugins.events import ModelFacts
from leapcore.spec import Spec
from leapcore.train.costs import StepCosts
from leapcore.train.deepspeed import Engine
from leapcore.train.teacher import Teacher

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAP_IMAGES = 256  # on which the layers' alignments are mapped


class Data(NamedTuple):
    """The images of a run.

    Attributes:
        splits: Training and validation images.
        batches: Augmented batches of the training images.
        length: Of the run.
    """

    splits: ImageSplits
    batches: TrainingBatches
    length: RunLength


class Models(NamedTuple):
    """The models of a run, before an engine partitions them.

    Attributes:
        student: The backbone that is trained.
        teachers: Each with its curriculum.
        distiller: The student with its heads; what the engine trains.
        costs: What steps cost, by target layer.
        student_facts: Sizes of the student; its MACs include the projectors'.
        teacher_facts: Sizes of the teachers, by name.
    """

    student: LayerFeatureProvider
    teachers: list[Teacher]
    distiller: Distiller
    costs: StepCosts
    student_facts: ModelFacts
    teacher_facts: dict[str, ModelFacts]


@dataclass(kw_only=True)
class RunParts:
    """A run, built and ready for its first step: the fields of :class:`Data` and :class:`Models`, and more.

    Attributes:
        spec: The resolved spec.
        ranks: The processes that share the work.
        device: Where this one computes.
        ledger: Counts FLOPs.
        engine: Trains the distiller.
        lr_schedule: The learning rate over the steps, as a share of its peak.
        student_copy: A plain copy of the student, for its weights where the engine partitions them; on the
            first process only.
    """

    spec: Spec
    ranks: Ranks
    device: torch.device
    splits: ImageSplits
    batches: TrainingBatches
    length: RunLength
    student: LayerFeatureProvider
    teachers: list[Teacher]
    distiller: Distiller
    costs: StepCosts
    student_facts: ModelFacts
    teacher_facts: dict[str, ModelFacts]
    ledger: FlopsLedger
    engine: Engine
    lr_schedule: LrSchedule
    student_copy: LayerFeatureProvider | None

    @cached_property
    def autocast(self) -> torch.autocast:
        """The precision of the spec, as a context."""
        kind = AUTOCAST[self.spec.train.precision]
        return torch.autocast(self.device.type, kind, enabled=kind is not None)

    @cached_property
    def map_sample(self) -> Tensor:
        """Validation images for the maps of CKA: bytes (n, 3, H, W), read when first needed."""
        return evaluation_sample(self.splits.val, self.spec.data, MAP_IMAGES)
