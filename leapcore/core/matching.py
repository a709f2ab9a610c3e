"""The student compared with one teacher: projectors and losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leapcore.core.features import LayerFeatures, on_common_grid
from leapcore.core.losses import FeatureLoss, mse
from leapcore.core.norms import TARGET_NORMS
from leapcore.core.objective import (
    ClsHead,
    CommonGrid,
    Reduction,
    TargetName,
    TargetNormName,
    check_choice,
)
from leapcore.core.projection import Projector
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.targets import TARGETS


class TeacherFeatures(NamedTuple):
    """What a step needs of a teacher.

    Attributes:
        layers: Normalised features, one per pair of the target; the calibration gives the first alone.
        embedding: The patch embedding, where there is a loss on it.

    Example:
        >>> half = TeacherFeatures([LayerFeatures(torch.rand(4, 16, 72), (4, 4))])  # of 4 images
        >>> TeacherFeatures.joined([half, half]).layers[0].tokens.shape
        torch.Size([8, 16, 72])
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
    """The student compared with one teacher.

    Attributes:
        loss: The sum of the others, each with its weight.
        patch_loss: Between the tokens of the grid.
        cls_loss: Between the pooled vectors; 0 where its weight is 0.
        embedding_loss: Between the patch embeddings; 0 where its weight is 0.
        projected: (B * N, C), the student's tokens after projection, of the first pair.
        target: (B * N, C), the teacher's tokens on the same grid, of the first pair.

    Example:
        >>> from leapcore import Distiller, build_backbone, linear_cka
        >>> vit = build_backbone("vit", weights="asset:digits-vit", image_size=32)
        >>> match, pixels = Match(vit, vit), torch.rand(2, 3, 32, 32)
        >>> result = Distiller(vit, {"itself": match})(
        ...     pixels, {"itself": match.teacher_features(vit, pixels, layer=11)}
        ... )
        >>> comparison = result.comparisons["itself"]
        >>> comparison.projected.shape, comparison.target.shape  # 2 images of 16 tokens
        (torch.Size([32, 72]), torch.Size([32, 72]))
        >>> bool(linear_cka(comparison.projected, comparison.target) > 0.5)
        True
    """

    loss: Tensor
    patch_loss: Tensor
    cls_loss: Tensor
    embedding_loss: Tensor
    projected: Tensor
    target: Tensor


class Match(nn.Module):
    """Projects the student's features and compares them with a teacher's.

    Its options are those of a spec's ``objective``.

    Args:
        student: The student; only its layers' widths are looked at.
        teacher: The teacher; likewise, it is neither kept nor trained.
        target: Which layers are paired (:mod:`leapcore.core.targets`).
        reduction: How the losses of several pairs are joined.
        patch: The loss between tokens.
        cls_weight: Weight of the mean squared error between the pooled vectors.
        cls_head: Whether the pooled vectors have the tokens' heads or heads of their own.
        patch_embedding: Weight of the loss between patch embeddings.
        target_norm: Which norm the teacher's features get (:mod:`leapcore.core.norms`).
        grid: On which of two grids tokens are compared (:func:`leapcore.core.features.on_common_grid`).

    Attributes:
        target: The :class:`leapcore.core.targets.Target` of that name, which pairs layers.
        target_norm: The function of that name.
        student_layers: Indices of the student's layers that are compared, one per pair.
        projectors: One per pair.
        embedding: The loss between patch embeddings, None where its weight is 0.

    Raises:
        ValueError: An option has a value that it cannot have; or a backbone has no patch embedding, for which
            there is a weight.

    Example:
        >>> from leapcore import build_backbone
        >>> teacher = build_backbone("vit", weights="asset:digits-vit", image_size=32)
        >>> small = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        >>> student = build_backbone("vit", model="vit_tiny_patch16_224", image_size=32, options=small)
        >>> match = Match(student, teacher, target="layer+last", cls_head="separate")
        >>> match.student_layers, match.teacher_layers(3)
        ([1, 1], [3, 11])
        >>> features = match.teacher_features(teacher, torch.rand(4, 3, 32, 32), layer=3)
        >>> [layer.tokens.shape for layer in features.layers]
        [torch.Size([4, 16, 72]), torch.Size([4, 16, 72])]
    """

    def __init__(
        self,
        student: LayerFeatureProvider,
        teacher: LayerFeatureProvider,
        *,
        target: TargetName = "layer",
        reduction: Reduction = "mean",
        patch: FeatureLoss = mse,
        cls_weight: float = 0.05,
        cls_head: ClsHead = "shared",
        patch_embedding: float = 0.0,
        target_norm: TargetNormName = "final",
        grid: CommonGrid = "smaller",
    ) -> None:
        super().__init__()
        check_choice("target", target, TargetName)
        check_choice("reduction", reduction, Reduction)
        check_choice("target_norm", target_norm, TargetNormName)
        check_choice("grid", grid, CommonGrid)
        self.target = TARGETS[target](len(student.layers), len(teacher.layers))
        self.reduction = reduction
        self.patch = patch
        self.cls_weight = cls_weight
        self.patch_embedding = patch_embedding
        self.target_norm = TARGET_NORMS[target_norm]
        self.grid = grid
        choices = [self.target.pairs(layer) for layer in range(self.target.choices)]
        self._teacher_layers = [[pair.teacher for pair in pairs] for pairs in choices]
        self.student_layers = [pair.student for pair in choices[0]]
        self.projectors = nn.ModuleList(
            Projector(
                student.layers[pairs[0].student].channels,
                [teacher.layers[pair.teacher].channels for pair in pairs],
                cls_head=cls_head,
            )
            for pairs in zip(*choices, strict=True)
        )
        self.embedding = EmbeddingLoss(student, teacher) if patch_embedding else None

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
        patch_loss = self._reduced([self.patch(ours.tokens, theirs.tokens) for ours, theirs in pairs])
        cls_loss = embedding_loss = patch_loss.new_zeros(())
        if self.cls_weight:
            cls_loss = self._reduced([F.mse_loss(ours.pooled, theirs.pooled) for ours, theirs in pairs])
        if self.embedding and student.embedding and teacher.embedding:
            embedding_loss = self.embedding(student.embedding, teacher.embedding)
        ours, theirs = pairs[0]
        return Comparison(
            loss=patch_loss + self.cls_weight * cls_loss + self.patch_embedding * embedding_loss,
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
            ours, theirs = on_common_grid(student.layers[layer], theirs, grid=self.grid)
            pairs.append((project(ours, theirs.channels), theirs))
        return pairs

    def reset_projectors(self) -> None:
        """Start all projectors anew, in place."""
        for projector in self.projectors:
            projector.reset()  # type: ignore[operator]

    def _reduced(self, losses: list[Tensor]) -> Tensor:
        """One loss of those of all pairs."""
        stacked = torch.stack(losses)
        return stacked.sum() if self.reduction == "sum" else stacked.mean()


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
