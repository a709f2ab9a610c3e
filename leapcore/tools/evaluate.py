"""Evaluations of any model on a spec's images."""

from __future__ import annotations

from pathlib import Path

from leapcore.core.provider import LayerFeatureProvider
from leapcore.data.sources import image_splits
from leapcore.distributed.ranks import join
from leapcore.errors import DataError, SpecError
from leapcore.models.build import backbone_of
from leapcore.spec import BackboneSpec, Spec
from leapcore.tools.resolve import resolve_model
from leapcore.train.evaluate import accuracies, retrieval_scores


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
        spec: Its data section names the images.
        family: The backbone family of a folder or timm name; if None, the one that lists the model.
        knn: Measure ``knn``, the accuracy of the nearest neighbours' vote.
        linear: Measure ``linear``, ``linear_best`` and ``linear_top5``, the accuracies of a linear probe.

    Returns:
        Shares of the validation images, by name.

    Raises:
        DataError: The images have no labels that differ.

    Example:
        >>> from leapcore import build_backbone, evaluate_model, load_spec
        >>> options = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 1}
        >>> vit = build_backbone("vit", model="vit_tiny_patch16_224", image_size=32, options=options)
        >>> accuracy = evaluate_model(vit, load_spec("quickstart"), knn=True)
        >>> list(accuracy), 0.1 < accuracy["knn"] < 1
        (['knn'], True)
    """
    device = join().device
    provider = model if isinstance(model, LayerFeatureProvider) else load_model(str(model), spec, family)
    shares = accuracies(spec, image_splits(spec), provider.to(device), device, knn=knn, linear=linear)
    if not shares:
        raise DataError(
            f"the images of '{spec.data.source}' have no labels that differ",
            "Name labelled images: one sub-folder per class, or a split with labels.",
        )
    return shares


def retrieve(model: str, folder: Path, spec: Spec, *, family: str | None = None) -> dict[str, float]:
    """Instance retrieval of any model on a folder in the layout of revisited Oxford or Paris.

    Args:
        model: As :func:`evaluate_model` takes it.
        folder: Holds ``gnd_<folder's name>.pkl`` and ``jpg/``.
        spec: Its data section gives image size and crop.
        family: As :func:`evaluate_model` takes it.
    """
    device = join().device
    return retrieval_scores(load_model(model, spec, family).to(device).eval(), folder, spec, device)


def load_model(model: str, spec: Spec, family: str | None) -> LayerFeatureProvider:
    """The provider for a model as :func:`evaluate_model` takes it."""
    return backbone_of(_spec_of(model, spec, family), spec.data.image_size)


def _spec_of(model: str, spec: Spec, family: str | None) -> BackboneSpec:
    """A teacher of the spec by its name, else any other model."""
    if model == "teacher" and spec.teachers:
        raise SpecError("the spec has several teachers", f"Name one: {', '.join(spec.teachers)}.")
    if model in spec.each_teacher and family:
        raise SpecError(
            f"--backbone {family}, but the spec says the family of '{model}'", "Leave --backbone out."
        )
    return spec.each_teacher.get(model) or resolve_model(model, family).backbone
