"""Evaluations of a run's student and teachers: on the way, and at the end."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch

from leapcore.core.duration import Duration
from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import evaluation_batches
from leapcore.data.sources import ImageSplits
from leapcore.data.views import evaluation_view
from leapcore.evaluation.extract import Features, extract_features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.evaluation.linear_probe import linear_probe
from leapcore.evaluation.retrieval import evaluate_retrieval
from leapcore.plugins.dispatch import Events
from leapcore.plugins.events import per_teacher
from leapcore.spec import Spec
from leapcore.train.cka_maps import measure_cka_maps, whole_student
from leapcore.train.parts import RunParts

logger = logging.getLogger(__name__)


def evaluate_on_the_way(parts: RunParts, step: int, events: Events) -> None:
    """What the spec asks for after this step, which is not the last. All processes call it.

    Args:
        parts: The run.
        step: Finished steps.
        events: Receives what was measured.
    """
    spec, per_epoch = parts.spec.evaluate, parts.length.steps_per_epoch
    if _due(spec.knn, step, per_epoch):
        events.stage("evaluating")
        if accuracy := student_knn(parts):
            events.metrics(step, accuracy)
    if _due(spec.cka_map, step, per_epoch):
        measure_cka_maps(parts, step, events)


def _due(moment: Duration | str, step: int, steps_per_epoch: int) -> bool:
    return isinstance(moment, Duration) and step % moment.in_steps(steps_per_epoch) == 0


def student_knn(parts: RunParts) -> dict[str, float]:
    """The student's kNN accuracy so far. All processes call it; the first one evaluates."""
    student = whole_student(parts)

    def evaluate() -> dict[str, float]:
        if not parts.ranks.is_first:
            return {}
        return accuracies(parts.spec, parts.splits, student, parts.device, knn=True)

    return parts.ranks.on_all(evaluate)


def final_accuracies(parts: RunParts) -> dict[str, float]:
    """All that the spec asks for at the end, the teachers' under ``teacher_…``. For the first process."""
    measured = _all_accuracies(parts, parts.student_copy or parts.student)
    if parts.spec.evaluate.teacher:
        for teacher in parts.teachers:
            own = _all_accuracies(parts, teacher.provider).items()
            figures = {f"teacher_{name}": value for name, value in own}
            measured |= per_teacher(figures, teacher.name, parts.teachers)
    return measured


def _all_accuracies(parts: RunParts, provider: LayerFeatureProvider) -> dict[str, float]:
    spec, evaluate = parts.spec, parts.spec.evaluate
    knn, linear = evaluate.knn != "never", evaluate.linear != "never"
    measured = accuracies(spec, parts.splits, provider, parts.device, knn=knn, linear=linear)
    for folder in map(Path, evaluate.retrieval):
        scores = retrieval_scores(provider, folder, spec, parts.device).items()
        measured |= {
            f"{name}/{folder.resolve().name}": score for name, score in scores if not math.isnan(score)
        }
    return measured


def accuracies(
    spec: Spec,
    splits: ImageSplits,
    provider: LayerFeatureProvider,
    device: torch.device,
    *,
    knn: bool = False,
    linear: bool = False,
) -> dict[str, float]:
    """Accuracies of a backbone on validation images: knn; linear, linear_best, linear_top5, as shares.

    Top-5 is left out where there are at most five classes: every answer would be right.

    Images without labels, or of one class only, have no accuracy: the result is empty.
    """
    measured: dict[str, float] = {}
    if not (knn or linear):
        return measured
    train, val = (_features(spec, images, provider, device) for images in splits)
    for split, features in (("training", train), ("validation", val)):
        if features.labels.min() < 0 or (features is train and len(train.labels.unique()) < 2):
            logger.warning("the %s images have no labels that differ: accuracy is not evaluated", split)
            return measured
    if knn:
        measured["knn"] = knn_accuracy(train, val)
    if linear:
        probe = linear_probe(train, val, seed=spec.train.seed)
        measured |= {"linear": probe.last, "linear_best": probe.best}
        if probe.top5 is not None:
            measured["linear_top5"] = probe.top5
    return measured


def retrieval_scores(
    provider: LayerFeatureProvider, folder: Path, spec: Spec, device: torch.device
) -> dict[str, float]:
    """Instance retrieval of a backbone, as LEAP measures it."""
    view = evaluation_view(spec.data.image_size, spec.data.crop)
    return evaluate_retrieval(provider, folder, view=view, device=device)


def _features(spec: Spec, images: Any, provider: LayerFeatureProvider, device: torch.device) -> Features:
    batches = evaluation_batches(images, spec.data, spec.train.batch_size)
    return extract_features(provider, batches, device)
