"""Evaluations of a run's student and teachers."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from leapcore.core.distiller import student_weights
from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.batches import evaluation_batches
from leapcore.data.sources import ImageSplits
from leapcore.data.views import evaluation_view
from leapcore.distributed.ranks import device
from leapcore.evaluation.extract import Features, extract_features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.evaluation.linear_probe import linear_probe
from leapcore.evaluation.retrieval import evaluate_retrieval
from leapcore.plugins.events import per_teacher
from leapcore.spec import Spec
from leapcore.train.setup import RunParts
from leapcore.train.zero_state import whole_weights

logger = logging.getLogger(__name__)


def accuracies(
    spec: Spec,
    splits: ImageSplits,
    provider: LayerFeatureProvider,
    *,
    knn: bool = False,
    linear: bool = False,
) -> dict[str, float]:
    """Accuracies of a backbone on validation images: knn; linear, linear_best, linear_top5, as shares.

    Top-5 is left out where there are at most five classes: every answer would be right.

    Images without labels, or of one class only, have nothing to tell apart: the result is empty.
    """
    found: dict[str, float] = {}
    if not (knn or linear):
        return found
    train, val = (_features(spec, images, provider) for images in splits)
    for split, features in (("training", train), ("validation", val)):
        if features.labels.min() < 0 or (features is train and len(train.labels.unique()) < 2):
            logger.warning("the %s images have no labels that differ: accuracy is not evaluated", split)
            return found
    if knn:
        found["knn"] = knn_accuracy(train, val)
    if linear:
        probe = linear_probe(train, val, seed=spec.train.seed)
        found |= {"linear": probe.last, "linear_best": probe.best}
        if probe.top5 is not None:
            found["linear_top5"] = probe.top5
    return found


def current_student(parts: RunParts) -> LayerFeatureProvider:
    """The student with whole weights, to evaluate or export. All processes call it; the first one uses it."""
    if parts.spec.engine.zero_stage < 3:
        return parts.student
    weights = whole_weights(parts.engine)
    if parts.twin is None:
        return parts.student
    parts.twin.load_state_dict(student_weights(weights))
    return parts.twin.to(parts.device)


def student_knn(parts: RunParts) -> dict[str, float]:
    """The student's kNN accuracy so far. All processes call it; the first one evaluates."""
    student = current_student(parts)

    def evaluate() -> dict[str, float]:
        return accuracies(parts.spec, parts.splits, student, knn=True) if parts.ranks.first else {}

    return parts.ranks.together(evaluate)


def final_accuracies(parts: RunParts) -> dict[str, float]:
    """All that the spec asks for at the end, the teachers' under ``teacher_…``. For the first process."""
    found = _final(parts, parts.twin or parts.student)
    if parts.spec.evaluate.teacher:
        for teacher in parts.teachers:
            measured = _final(parts, teacher.provider)
            figures = {f"teacher_{name}": value for name, value in measured.items()}
            found |= per_teacher(figures, teacher.name, parts.teachers)
    return found


def _final(parts: RunParts, provider: LayerFeatureProvider) -> dict[str, float]:
    spec, wanted = parts.spec, parts.spec.evaluate
    found = accuracies(
        spec, parts.splits, provider, knn=wanted.knn != "never", linear=wanted.linear != "never"
    )
    for folder in map(Path, wanted.retrieval):
        scores = retrieval_scores(provider, folder, spec).items()
        found |= {f"{name}/{folder.resolve().name}": score for name, score in scores if not math.isnan(score)}
    return found


def retrieval_scores(provider: LayerFeatureProvider, folder: Path, spec: Spec) -> dict[str, float]:
    """Instance retrieval of a backbone, as LEAP measures it."""
    view = evaluation_view(spec.data.image_size, spec.data.crop)
    return evaluate_retrieval(provider, folder, view=view, device=device())


def _features(spec: Spec, images: Any, provider: LayerFeatureProvider) -> Features:
    batches = evaluation_batches(images, spec.data, spec.train.batch_size)
    return extract_features(provider, batches, device())
