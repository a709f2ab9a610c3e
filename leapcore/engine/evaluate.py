"""The evaluations of a run: student and, for comparison, teacher."""

from __future__ import annotations

from leapcore.core.features import LayerFeatureProvider
from leapcore.engine.data import evaluation_batches
from leapcore.engine.setup import Parts
from leapcore.evaluation.features import Features, extract_features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.evaluation.linear_probe import linear_probe


def knn(parts: Parts, provider: LayerFeatureProvider) -> float:
    """kNN accuracy of a backbone on the run's validation images."""
    return knn_accuracy(*_features(parts, provider))


def final_accuracy(parts: Parts) -> dict[str, float]:
    """All accuracies that the spec asks for at the end: knn, linear, linear_best, and the teacher's."""
    wanted = parts.spec.evaluate
    accuracy = _accuracies(parts, parts.student)
    if wanted.teacher and accuracy:
        accuracy |= {f"teacher_{name}": value for name, value in _accuracies(parts, parts.teacher).items()}
    return accuracy


def _accuracies(parts: Parts, provider: LayerFeatureProvider) -> dict[str, float]:
    wanted = parts.spec.evaluate
    accuracy: dict[str, float] = {}
    if wanted.knn == wanted.linear == "never":
        return accuracy
    train, val = _features(parts, provider)
    if wanted.knn != "never":
        accuracy["knn"] = knn_accuracy(train, val)
    if wanted.linear != "never":
        probe = linear_probe(train, val, seed=parts.spec.train.seed)
        accuracy |= {"linear": probe.last, "linear_best": probe.best}
    return accuracy


def _features(parts: Parts, provider: LayerFeatureProvider) -> tuple[Features, Features]:
    data, batch_size = parts.spec.data, parts.spec.train.batch_size
    train, val = (
        extract_features(provider, evaluation_batches(images, data, batch_size), parts.device)
        for images in parts.splits
    )
    return train, val
