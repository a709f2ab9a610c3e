"""The trainable part of a distillation: the student, and its match with each teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from leapcore.core import losses
from leapcore.core.features import LayerFeatures
from leapcore.core.matching import Comparison, Match, StudentFeatures, TeacherFeatures
from leapcore.core.provider import LayerFeatureProvider


class Distillation(NamedTuple):
    """What a step minimises, and its parts.

    Attributes:
        loss: The sum of all, each with its weight.
        sigreg_loss: The regulariser of the student's features; 0 where its weight is 0.
        comparisons: The student compared with each teacher, by the teacher's name.

    Example:
        >>> one = Distillation(torch.tensor(0.5), torch.tensor(0.0), comparisons={})
        >>> other = Distillation(torch.tensor(1.5), torch.tensor(0.0), comparisons={})
        >>> merged([one, other]).loss  # of two equal parts of a batch
        tensor(1.)
    """

    loss: Tensor
    sigreg_loss: Tensor
    comparisons: dict[str, Comparison]


def merged(results: Sequence[Distillation]) -> Distillation:
    """The results of equal parts of a batch, as if it had been one: means of losses, all tokens."""
    if len(results) == 1:
        return results[0]
    comparisons = {
        name: _merged([result.comparisons[name] for result in results]) for name in results[0].comparisons
    }
    loss = torch.stack([result.loss.detach() for result in results]).mean()
    return Distillation(loss, torch.stack([result.sigreg_loss for result in results]).mean(), comparisons)


def _merged(parts: Sequence[Comparison]) -> Comparison:
    names = [name for name in Comparison._fields if name.endswith("loss")]
    return Comparison(
        **{name: torch.stack([getattr(part, name).detach() for part in parts]).mean() for name in names},
        projected=torch.cat([part.projected for part in parts]),
        target=torch.cat([part.target for part in parts]),
    )


def student_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's state dict, out of its :class:`Distiller`'s."""
    prefix = "student."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


class Distiller(nn.Module):
    """All that is trained: the student and its matches with the teachers.

    The teachers are no part of it: they are neither trained nor stored in checkpoints.

    Args:
        student: The backbone to train.
        matches: The student's match with each teacher, by the teacher's name.
        weights: Weight of each teacher's loss; 1 for those not named.
        sigreg: Weight of :func:`leapcore.core.losses.sigreg` on the student's mean tokens.
        gather: Turns this process's rows (n, C) into those of the whole batch, with gradient.

    Example:
        >>> from leapcore import build_backbone
        >>> teacher = build_backbone("vit", weights="asset:digits-vit", image_size=32).requires_grad_(False)
        >>> small = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
        >>> student = build_backbone("vit", model="vit_tiny_patch16_224", image_size=32, options=small)
        >>> match = Match(student, teacher, cls_weight=0.05)
        >>> distiller = Distiller(student, {"teacher": match})
        >>> pixels = torch.rand(8, 3, 32, 32)  # in [0, 1]
        >>> target = match.teacher_features(teacher, pixels, layer=3)  # no deeper layer runs
        >>> result = distiller(pixels, {"teacher": target})
        >>> result.loss.backward()
        >>> result.comparisons["teacher"].projected.shape  # 8 images of 16 tokens, as wide as the teacher's
        torch.Size([128, 72])
    """

    def __init__(
        self,
        student: LayerFeatureProvider,
        matches: Mapping[str, Match],
        *,
        weights: Mapping[str, float] | None = None,
        sigreg: float = 0.0,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> None:
        super().__init__()
        self.student = student
        # A list, since a dictionary of modules takes no name that is one of its own attributes.
        self.matches = nn.ModuleList(matches.values())
        self.names = tuple(matches)
        self._student_layers = {layer for match in matches.values() for layer in match.student_layers}
        self._embeds = any(match.embedding for match in matches.values())
        self.weights = {name: (weights or {}).get(name, 1.0) for name in matches}
        self.sigreg = sigreg
        self._gather = gather

    def forward(self, pixels: Tensor, teachers: Mapping[str, TeacherFeatures]) -> Distillation:
        """Run the student once and compare it with the teachers.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            teachers: Features of the same images, by the teacher's name; a teacher without is left out.
        """
        features = self.student_features(self.student.prepare(pixels))
        comparisons = {
            name: match(features, teachers[name])
            for name, match in zip(self.names, self.matches, strict=True)
            if name in teachers
        }
        last = features.layers[len(self.student.layers) - 1]
        sigreg_loss = last.tokens.new_zeros(())
        if self.sigreg:
            sigreg_loss = losses.sigreg(self._gather(last.tokens.mean(1)))
        loss = self.sigreg * sigreg_loss
        for name, comparison in comparisons.items():
            loss = loss + self.weights[name] * comparison.loss
        return Distillation(loss, sigreg_loss.detach(), comparisons)

    def student_features(self, images: Tensor) -> StudentFeatures:
        """The student's features of all layers that some match needs; its last layer is finalized."""
        last = len(self.student.layers) - 1
        layers: dict[int, LayerFeatures] = {}
        for index, features in enumerate(self.student.iter_layers(images)):
            if index == last:
                layers[index] = self.student.finalize(features, index)
            elif index in self._student_layers:
                layers[index] = features
        return StudentFeatures(layers, self.student.embed(images) if self._embeds else None)
