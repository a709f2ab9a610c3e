"""The evaluations of a run: student and, for comparison, teacher."""

from __future__ import annotations

import logging

from leapcore.core.features import LayerFeatureProvider
from leapcore.engine.data import evaluation_batches
from leapcore.engine.setup import Parts
from leapcore.evaluation.features import Features, extract_features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.evaluation.linear_probe import linear_probe

logger = logging.getLogger(__name__)


def accuracies(
    parts: Parts, provider: LayerFeatureProvider, *, knn: bool = False, linear: bool = False
) -> dict[str, float]:
    """Accuracies of a backbone on the run's validation images: knn; linear, linear_best.

    Images without labels, or of one class only, have nothing to tell apart: the result is empty.
    """
    found: dict[str, float] = {}
    if not (knn or linear):
        return found
    train, val = _features(parts, provider)
    if len(train.labels.unique()) < 2 or train.labels.min() < 0:
        logger.warning("the training images have no labels that differ: accuracy is not evaluated")
        return found
    if knn:
        found["knn"] = knn_accuracy(train, val)
    if linear:
        probe = linear_probe(train, val, seed=parts.spec.train.seed)
        found |= {"linear": probe.last, "linear_best": probe.best}
    return found


def final_accuracies(parts: Parts) -> dict[str, float]:
    """All that the spec asks for at the end, the teacher's under ``teacher_…``."""
    wanted = {"knn": parts.spec.evaluate.knn != "never", "linear": parts.spec.evaluate.linear != "never"}
    found = accuracies(parts, parts.student, **wanted)
    if parts.spec.evaluate.teacher:
        of_teacher = accuracies(parts, parts.teacher, **wanted)
        found |= {f"teacher_{name}": value for name, value in of_teacher.items()}
    return found


def _features(parts: Parts, provider: LayerFeatureProvider) -> tuple[Features, Features]:
    data, batch_size = parts.spec.data, parts.spec.train.batch_size
    train, val = (
        extract_features(provider, evaluation_batches(images, data, batch_size), parts.device)
        for images in parts.splits
    )
    return train, val
