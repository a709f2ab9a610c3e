"""The trainable part of a distillation: student and projector, and the loss against a target."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from leapcore.core.features import LayerFeatureProvider, LayerFeatures, on_common_grid
from leapcore.core.losses import FeatureLoss, sigreg
from leapcore.core.projection import Projector


class Comparison(NamedTuple):
    """The student held against one target.

    Attributes:
        loss: What is minimised: the sum of the others, each with its weight.
        patch_loss: Between the tokens of the grid.
        cls_loss: Between the pooled vectors; 0 where its weight is 0.
        sigreg_loss: The regulariser of the student's features; 0 where its weight is 0.
        projected: (B * N, C), the student's tokens after projection.
        target: (B * N, C), the teacher's tokens on the same grid.
    """

    loss: Tensor
    patch_loss: Tensor
    cls_loss: Tensor
    sigreg_loss: Tensor
    projected: Tensor
    target: Tensor


class Distiller(nn.Module):
    """What the engine wraps and trains.

    The teacher is no part of it: it is neither trained nor stored in checkpoints.

    Args:
        student: The backbone to train; its last layer is the one that is matched.
        projector: Heads from the student's width to each of the teacher's.
        patch_loss: The loss between tokens.
        cls_weight: Weight of the mean squared error between the pooled vectors.
        sigreg_weight: Weight of :func:`leapcore.core.losses.sigreg` on the student's mean tokens.
    """

    def __init__(
        self,
        student: LayerFeatureProvider,
        projector: Projector,
        patch_loss: FeatureLoss,
        cls_weight: float,
        sigreg_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.student = student
        self.projector = projector
        self.patch_loss = patch_loss
        self.cls_weight = cls_weight
        self.sigreg_weight = sigreg_weight

    def forward(self, pixels: Tensor, target: LayerFeatures) -> Comparison:
        """Run the student and compare it with a target.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            target: Finalized teacher features of the same images.
        """
        (features,) = self.student(self.student.prepare(pixels), [len(self.student.layers) - 1])
        projected, target = on_common_grid(self.projector(features, target.channels), target)
        patch_loss = self.patch_loss(projected.tokens, target.tokens)
        cls_loss = patch_loss.new_zeros(())
        if self.cls_weight:
            cls_loss = nn.functional.mse_loss(projected.pooled, target.pooled)
        sigreg_loss = patch_loss.new_zeros(())
        if self.sigreg_weight:
            sigreg_loss = sigreg(features.tokens.mean(1))
        return Comparison(
            loss=patch_loss + self.cls_weight * cls_loss + self.sigreg_weight * sigreg_loss,
            patch_loss=patch_loss.detach(),
            cls_loss=cls_loss.detach(),
            sigreg_loss=sigreg_loss.detach(),
            projected=projected.tokens.detach().flatten(0, 1),
            target=target.tokens.flatten(0, 1),
        )
