"""A teacher in a run: its backbone, the student's match with it, and its curriculum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from leapcore.cache.features import FeatureCache
from leapcore.cache.records import Stamp
from leapcore.core.batch_alignment import BatchAlignment
from leapcore.core.distiller import Distillation
from leapcore.core.features import LayerFeatures
from leapcore.core.matching import Match, TeacherFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.errors import PluginError
from leapcore.models.digests import weights_digest
from leapcore.models.residency import ResidentLayers, matrices_to

CPU_CACHE = 4 * 2**20  # bytes of activations that fit into one core's share of a CPU's cache


class TeacherPass:
    """Runs a frozen backbone up to the target: in pieces that fit the machine, its layers loaded as needed.

    Args:
        provider: The backbone, frozen and in eval mode.
        match: Says which layers a target needs, and how they are normalised.
        device: Where it computes.
        autocast: The type that its matrix products are computed in, if it is not float32.
    """

    def __init__(
        self, provider: LayerFeatureProvider, match: Match, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        self._provider, self._match = provider, match
        self._resident = ResidentLayers(provider, device)  # tries the network in float32
        self._target = -1  # for which layers are resident
        if autocast is not None:
            matrices_to(provider.model, autocast)
        self._at_once = _fitting_images(provider) if device.type == "cpu" else None

    def __call__(self, target: int, pixels: Tensor) -> TeacherFeatures:
        """The features that a target needs.

        Args:
            target: The curriculum's layer, 0-based.
            pixels: (B, 3, H, W) in [0, 1].
        """
        if target != self._target:
            # The layer after the deepest is the one that a curriculum asks for next.
            self._resident.keep(range(max(self._match.teacher_layers(target)) + 2))
            self._target = target
        pieces = pixels.chunk(-(-len(pixels) // (self._at_once or len(pixels))))
        return TeacherFeatures.joined(
            [self._match.teacher_features(self._provider, piece, target) for piece in pieces]
        )

    def each_layer(self, pixels: Tensor) -> Iterator[LayerFeatures]:
        """One layer's normalised features after the other, with two layers at most in the device's memory.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
        """
        self._target = -1
        for layer, features in enumerate(self._provider.iter_layers(self._provider.prepare(pixels))):
            self._resident.keep([layer, layer + 1])
            yield self._match.target_norm(self._provider, features, layer)


@dataclass
class Teacher:
    """One teacher of a run.

    Attributes:
        name: Its name in the spec.
        provider: Its backbone: frozen, in eval mode.
        match: The student's match with it, which is part of the distiller.
        scheduler: Chooses its target layer.
        alignment: What the scheduler listens to; None if nothing.
        compute: Its forward pass, once :meth:`place` has put it where it computes.
        cache: Keeps its features on disk, where the spec asks for it.
    """

    name: str
    provider: LayerFeatureProvider
    match: Match
    scheduler: DifficultyScheduler
    alignment: BatchAlignment | None
    compute: TeacherPass = field(init=False)
    cache: FeatureCache | None = None

    def place(self, device: torch.device, autocast: torch.dtype | None) -> None:
        """Put it where it computes; the arguments are those of :class:`TeacherPass`."""
        _ = self.fingerprint  # of the weights as they were loaded
        self.compute = TeacherPass(self.provider, self.match, device, autocast)

    def features(self, pixels: Tensor, digests: Tensor, stamp: Stamp) -> TeacherFeatures:
        """What this step's target needs of the teacher.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            digests: (B, 16), of the bytes that the pixels were made of; looked at by the cache only.
            stamp: This step, for the cache.

        Raises:
            PluginError: The scheduler chose a layer that does not exist.
        """
        target = self.scheduler.target
        if not 0 <= target < self.match.target.choices:
            raise PluginError(
                f"{type(self.scheduler).__name__} chose {target!r}, "
                f"not the 0-based index of one of {self.match.target.choices} layers",
                "Mend the scheduler; leapcore.testing.check_scheduler finds the step.",
            )
        if self.cache is None:
            return self.compute(target, pixels)
        compute = partial(self.compute, target)
        return self.cache.features(self.match.teacher_layers(target), pixels, digests, stamp, compute)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all its weights, which no other teacher has."""
        return weights_digest(self.provider)

    @torch.no_grad()
    def calibrate(self, distiller: Callable[..., Distillation], pixels: Tensor) -> list[float]:
        """The untrained student's alignment with each layer that may be the target, in one teacher pass.

        Args:
            distiller: The student with its heads.
            pixels: (B, 3, H, W) in [0, 1].
        """
        assert self.alignment is not None, "a scheduler that wants a calibration names an alignment"
        scores = []
        for _, features in zip(
            range(self.match.target.choices), self.compute.each_layer(pixels), strict=False
        ):
            result = distiller(pixels, {self.name: TeacherFeatures([features])})
            comparison = result.comparisons[self.name]
            scores.append(self.alignment(comparison.projected, comparison.target).item())
        return scores


def _fitting_images(provider: LayerFeatureProvider) -> int:
    """How many images' widest activations (four times as wide as a layer) a CPU's caches hold.

    A frozen backbone sees each image by itself, so that a batch in pieces costs the same arithmetic, but
    finds what it has just computed in the cache: 18 % less time for a ViT 192 wide and 64 images.
    """
    height, width = provider.image_input.size
    values = max(
        layer.channels * max(1, height // layer.stride) * max(1, width // layer.stride)
        for layer in provider.layers
    )
    return max(1, CPU_CACHE * torch.get_num_threads() // (4 * 4 * values))
