"""The student held against one teacher: projectors and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leapcore.core.features import LayerFeatures, on_common_grid
from leapcore.core.losses import FeatureLoss, mse
from leapcore.core.norms import TargetNorm, final
from leapcore.core.projection import Projector
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.targets import OneLayer, Target


class TeacherFeatures(NamedTuple):
    """What a step needs of a teacher.

    Attributes:
        layers: Normalised features, one per pair of the target; the calibration gives the first alone.
        embedding: The patch embedding, where there is a loss on it.
    """

    layers: list[LayerFeatures]
    embedding: LayerFeatures | None = None

    @classmethod
    def joined(cls, pieces: Sequence[TeacherFeatures]) -> TeacherFeatures:
        """Those of several batches as one."""
        if len(pieces) == 1:
            return pieces[0]
        layers = [LayerFeatures.joined(layer) for layer in zip(*(p.layers for p in pieces), strict=True)]
        embeddings = [piece.embedding for piece in pieces if piece.embedding is not None]
        return cls(layers, LayerFeatures.joined(embeddings) if embeddings else None)


class StudentFeatures(NamedTuple):
    """What a step needs of the student.

    Attributes:
        layers: Features by index; the last layer's are finalized, the others as they are.
        embedding: The patch embedding, where there is a loss on it.
    """

    layers: Mapping[int, LayerFeatures]
    embedding: LayerFeatures | None = None


class Comparison(NamedTuple):
    """The student held against one teacher.

    Attributes:
        loss: The sum of the others, each with its weight.
        patch_loss: Between the tokens of the grid.
        cls_loss: Between the pooled vectors; 0 where its weight is 0.
        embedding_loss: Between the patch embeddings; 0 where its weight is 0.
        projected: (B * N, C), the student's tokens after projection, of the first pair.
        target: (B * N, C), the teacher's tokens on the same grid, of the first pair.
    """

    loss: Tensor
    patch_loss: Tensor
    cls_loss: Tensor
    embedding_loss: Tensor
    projected: Tensor
    target: Tensor


class Match(nn.Module):
    """Projects the student's features and compares them with a teacher's.

    Args:
        student: The student; only its layers' widths are looked at.
        teacher: The teacher; likewise, it is neither kept nor trained.
        target: Which layers are paired (:mod:`leapcore.core.targets`).
        patch_loss: The loss between tokens.
        cls_weight: Weight of the mean squared error between the pooled vectors.
        separate_cls: Give the pooled vectors heads of their own.
        sum_pairs: Add up the losses of several pairs instead of averaging them.
        embedding_weight: Weight of the loss between patch embeddings.
        target_norm: Applied to the teacher's features (:mod:`leapcore.core.norms`).
        upsample: Where grids differ, stretch the smaller one instead of averaging the larger one.

    Raises:
        ValueError: ``embedding_weight`` is given, and a backbone has no patch embedding.
    """

    def __init__(
        self,
        student: LayerFeatureProvider,
        teacher: LayerFeatureProvider,
        *,
        target: type[Target] = OneLayer,
        patch_loss: FeatureLoss = mse,
        cls_weight: float = 0.05,
        separate_cls: bool = False,
        sum_pairs: bool = False,
        embedding_weight: float = 0.0,
        target_norm: TargetNorm = final,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.target = target(len(student.layers), len(teacher.layers))
        self.patch_loss = patch_loss
        self.cls_weight = cls_weight
        self.sum_pairs = sum_pairs
        self.embedding_weight = embedding_weight
        self.target_norm = target_norm
        self.upsample = upsample
        choices = [self.target.pairs(layer) for layer in range(self.target.choices)]
        self._teacher_layers = [[pair.teacher for pair in pairs] for pairs in choices]
        self.student_layers = [pair.student for pair in choices[0]]
        self.projectors = nn.ModuleList(
            Projector(
                student.layers[pairs[0].student].channels,
                [teacher.layers[pair.teacher].channels for pair in pairs],
                separate_cls=separate_cls,
            )
            for pairs in zip(*choices, strict=True)
        )
        self.embedding = EmbeddingLoss(student, teacher) if embedding_weight else None

    def teacher_layers(self, layer: int) -> list[int]:
        """The teacher's layers that a step needs while ``layer`` is the curriculum's target."""
        return self._teacher_layers[layer]

    @torch.no_grad()
    def teacher_features(self, teacher: LayerFeatureProvider, pixels: Tensor, layer: int) -> TeacherFeatures:
        """Run the teacher as deep as needed.

        Args:
            teacher: The teacher.
            pixels: (B, 3, H, W) in [0, 1].
            layer: The curriculum's target, 0-based.
        """
        images = teacher.prepare(pixels)
        embedding = teacher.embed(images) if self.embedding else None
        layers = self.teacher_layers(layer)
        features = teacher.features(images, layers)
        normalised = [self.target_norm(teacher, f, i) for f, i in zip(features, layers, strict=True)]
        return TeacherFeatures(normalised, embedding)

    def forward(self, student: StudentFeatures, teacher: TeacherFeatures) -> Comparison:
        """Project and compare."""
        pairs = self.projected(student, teacher.layers)
        patch_loss = self._over_pairs([self.patch_loss(ours.tokens, theirs.tokens) for ours, theirs in pairs])
        cls_loss = embedding_loss = patch_loss.new_zeros(())
        if self.cls_weight:
            cls_loss = self._over_pairs([F.mse_loss(ours.pooled, theirs.pooled) for ours, theirs in pairs])
        if self.embedding and student.embedding and teacher.embedding:
            embedding_loss = self.embedding(student.embedding, teacher.embedding)
        ours, theirs = pairs[0]
        return Comparison(
            loss=patch_loss + self.cls_weight * cls_loss + self.embedding_weight * embedding_loss,
            patch_loss=patch_loss.detach(),
            cls_loss=cls_loss.detach(),
            embedding_loss=embedding_loss.detach(),
            projected=ours.tokens.detach().flatten(0, 1),
            target=theirs.tokens.flatten(0, 1),
        )

    def projected(
        self, student: StudentFeatures, teacher: Sequence[LayerFeatures]
    ) -> list[tuple[LayerFeatures, LayerFeatures]]:
        """Each pair's features on one grid, the student's projected."""
        pairs = []
        for layer, project, theirs in zip(self.student_layers, self.projectors, teacher, strict=False):
            # A linear head and an average may change places; averaging first leaves less to project.
            ours, theirs = on_common_grid(student.layers[layer], theirs, upsample=self.upsample)
            pairs.append((project(ours, theirs.channels), theirs))
        return pairs

    def reset_projectors(self) -> None:
        """Start all projectors anew, in place."""
        for projector in self.projectors:
            projector.reset()  # type: ignore[operator]

    def _over_pairs(self, losses: list[Tensor]) -> Tensor:
        stacked = torch.stack(losses)
        return stacked.sum() if self.sum_pairs else stacked.mean()


class EmbeddingLoss(nn.Module):
    """Mean squared error between patch embeddings: both normalised, the student's projected first.

    In the authors' code the teacher's side has a trained norm too, whose gain can shrink to 0 and the loss
    with it. Here that side's norm has no parameters.

    Args:
        student: The student.
        teacher: The teacher.

    Raises:
        ValueError: One of them has no patch embedding.
    """

    def __init__(self, student: LayerFeatureProvider, teacher: LayerFeatureProvider) -> None:
        super().__init__()
        if student.embedding is None or teacher.embedding is None:
            role = "student" if student.embedding is None else "teacher"
            raise ValueError(f"the {role}'s backbone family has no patch embedding")
        self.head = nn.Linear(student.embedding.channels, teacher.embedding.channels)
        self.norm = nn.LayerNorm(teacher.embedding.channels)

    def forward(self, student: LayerFeatures, teacher: LayerFeatures) -> Tensor:
        """Compare two patch embeddings."""
        ours, theirs = on_common_grid(student.map(self.head), teacher)
        return F.mse_loss(self.norm(ours.tokens), F.layer_norm(theirs.tokens, [theirs.channels]))
