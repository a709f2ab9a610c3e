"""From a spec's objective to the student's match with a teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from leapcore.core.losses import FeatureLoss
from leapcore.core.matching import Match
from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import PluginError, SpecError
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import ObjectiveSpec

_OF_THE_STEP = ("mixup", "sigreg", "reset_projector")  # what the loop and the distiller do


def build_match(
    objective: ObjectiveSpec, student: LayerFeatureProvider, teacher: LayerFeatureProvider
) -> Match:
    """The student's match with a teacher: projectors and losses, as the objective says.

    Raises:
        SpecError: The objective does not fit these backbones.
        PluginError: The loss is not one.
    """
    try:
        return Match(
            student,
            teacher,
            patch=patch_loss(objective.patch),
            reduction=objective.reduction or "mean",
            **objective.model_dump(exclude={"patch", "reduction", *_OF_THE_STEP}),
        )
    except ValueError as error:
        raise SpecError(
            f"objective: {error}", "Leave out target or patch_embedding, or take other backbones."
        ) from error


def patch_loss(name: str) -> FeatureLoss:
    """The loss that is registered by that name, tried once: a plugin's fault shows before the first step.

    Raises:
        PluginError: It fails, or returns something else than a scalar.
    """
    plugins, one = installed_plugins(), torch.ones(1, 2, 3)
    loss: FeatureLoss = plugins.get("losses", name)
    try:
        value = loss(one, one)
    # A stranger's function can fail in any way.
    except Exception as error:
        value, fault = None, f"fails with {type(error).__name__}: {error}"
    else:
        fault = f"returns {tuple(value.shape)}" if isinstance(value, Tensor) else f"returns {value!r}"
    if not isinstance(value, Tensor) or value.ndim:
        raise PluginError(
            f"the loss '{name}' of plugin {plugins.owner('losses', name)} {fault} for two tensors (1, 2, 3)",
            "Write it as (projected, target) -> scalar tensor.",
        )
    return loss
