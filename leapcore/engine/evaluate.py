"""Evaluations: of a run's student and teacher, and of any model on a spec's images."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from leapcore.core.provider import LayerFeatureProvider
from leapcore.engine.checkpoints.sharded import whole_weights
from leapcore.engine.components import backbone, image_splits
from leapcore.engine.data.batches import evaluation_batches
from leapcore.engine.data.sources import ImageSplits
from leapcore.engine.data.views import evaluation_view
from leapcore.engine.deepspeed import device
from leapcore.engine.models import found_model
from leapcore.engine.setup import Parts
from leapcore.errors import DataError, SpecError
from leapcore.evaluation.features import Features, extract_features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.evaluation.linear_probe import linear_probe
from leapcore.evaluation.retrieval import evaluate_retrieval
from leapcore.events import per_teacher
from leapcore.spec import BackboneSpec, Spec

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


def current_student(parts: Parts) -> LayerFeatureProvider:
    """The student with whole weights, to evaluate or export. All processes call it; the first one uses it."""
    if parts.spec.engine.zero_stage < 3:
        return parts.student
    weights = whole_weights(parts.engine)
    if parts.twin is None:
        return parts.student
    prefix = "student."
    own = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    parts.twin.load_state_dict(own)
    return parts.twin.to(parts.device)


def student_knn(parts: Parts) -> dict[str, float]:
    """The student's kNN accuracy so far. All processes call it; the first one evaluates."""
    student = current_student(parts)

    def evaluate() -> dict[str, float]:
        return accuracies(parts.spec, parts.splits, student, knn=True) if parts.ranks.first else {}

    return parts.ranks.together(evaluate)


def final_accuracies(parts: Parts) -> dict[str, float]:
    """All that the spec asks for at the end, the teachers' under ``teacher_…``. For the first process."""
    found = _final(parts, parts.twin or parts.student)
    if parts.spec.evaluate.teacher:
        for teacher in parts.teachers:
            measured = _final(parts, teacher.provider)
            figures = {f"teacher_{name}": value for name, value in measured.items()}
            found |= per_teacher(figures, teacher.name, parts.teachers)
    return found


def _final(parts: Parts, provider: LayerFeatureProvider) -> dict[str, float]:
    spec, wanted = parts.spec, parts.spec.evaluate
    found = accuracies(
        spec, parts.splits, provider, knn=wanted.knn != "never", linear=wanted.linear != "never"
    )
    for folder in map(Path, wanted.retrieval):
        scores = _retrieval(provider, folder, spec).items()
        found |= {f"{name}/{folder.resolve().name}": score for name, score in scores if not math.isnan(score)}
    return found


def evaluate_model(
    model: str | Path | LayerFeatureProvider,
    spec: Spec,
    *,
    family: str | None = None,
    knn: bool = False,
    linear: bool = False,
) -> dict[str, float]:
    """Evaluate any model on the images of a spec.

    Args:
        model: A backbone; a run's folder, a folder in timm's local-dir format, a timm name (with its
            pretrained weights), or the spec's name of a teacher, which is ``"teacher"`` where there is one.
        spec: Its data section says on what.
        family: The backbone family of a folder or timm name; found from its name if not given.
        knn: Ask for ``knn``, the accuracy of nearest neighbours.
        linear: Ask for ``linear``, ``linear_best`` and ``linear_top5``, those of a linear probe.

    Returns:
        Shares of the validation images, by name.

    Raises:
        DataError: The images have no labels that differ.
    """
    provider = model if isinstance(model, LayerFeatureProvider) else load_model(str(model), spec, family)
    found = accuracies(spec, image_splits(spec), provider.to(device()), knn=knn, linear=linear)
    if not found:
        raise DataError(
            f"the images of '{spec.data.source}' have no labels that differ",
            "Name labelled images: one sub-folder per class, or a split with labels.",
        )
    return found


def retrieve(model: str, folder: Path, spec: Spec, *, family: str | None = None) -> dict[str, float]:
    """Instance retrieval of any model on a folder in the layout of revisited Oxford or Paris.

    Args:
        model: As :func:`evaluate_model` takes it.
        folder: Holds ``gnd_<folder's name>.pkl`` and ``jpg/``.
        spec: Its data section gives image size and crop.
        family: As :func:`evaluate_model` takes it.
    """
    return _retrieval(load_model(model, spec, family).to(device()).eval(), folder, spec)


def _retrieval(provider: LayerFeatureProvider, folder: Path, spec: Spec) -> dict[str, float]:
    view = evaluation_view(spec.data.image_size, spec.data.crop)
    return evaluate_retrieval(provider, folder, view=view, device=device())


def load_model(model: str, spec: Spec, family: str | None) -> LayerFeatureProvider:
    """The provider for a model as :func:`evaluate_model` takes it."""
    return backbone(_wanted(model, spec, family), spec.data.image_size)


def _wanted(model: str, spec: Spec, family: str | None) -> BackboneSpec:
    if model == "teacher" and spec.teachers:
        raise SpecError("the spec has several teachers", f"Name one: {', '.join(spec.teachers)}.")
    if model in spec.each_teacher and family:
        raise SpecError(
            f"--backbone {family}, but the spec says the family of '{model}'", "Leave --backbone out."
        )
    return spec.each_teacher.get(model) or found_model(model, family).backbone


def _features(spec: Spec, images: Any, provider: LayerFeatureProvider) -> Features:
    batches = evaluation_batches(images, spec.data, spec.train.batch_size)
    return extract_features(provider, batches, device())
