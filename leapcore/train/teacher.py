"""A teacher in a run: its backbone, its curriculum, and the scores that move it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from leapcore.cache.features import FeatureCache
from leapcore.cache.records import Stamp
from leapcore.core.alignment import ALIGNMENTS, WHOLE
from leapcore.core.distiller import Distillation
from leapcore.core.features import LayerFeatures
from leapcore.core.flops import LayerMacs
from leapcore.core.matching import Comparison, Match, TeacherFeatures
from leapcore.core.provider import LayerFeatureProvider
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.core.targets import Pair
from leapcore.distributed.ranks import Ranks
from leapcore.errors import PluginError
from leapcore.models.digests import weights_digest
from leapcore.models.residency import ResidentLayers, matrices_to

logger = logging.getLogger(__name__)

CACHE = 4 * 2**20  # bytes of activations that a core's cache holds, with its surroundings
FEW = 4  # tokens per channel below which biased CKA of unrelated features exceeds about 0.2


@dataclass
class Teacher:
    """One teacher of a run.

    Attributes:
        name: How the spec calls it.
        provider: Its backbone: frozen, in eval mode.
        match: The student's match with it, which is part of the distiller.
        scheduler: Chooses its target layer.
        macs: MACs per image, layer by layer.
        embedding_macs: MACs per image of its patch embedding, where a loss asks for it once more.
        head_macs: MACs per image of the student's projectors, by target layer.
        batch_size: Images per step, over all processes.
        ranks: The processes that share a batch.
        cache: Keeps its features, where the spec asks for it.
        warned: Whether :meth:`warn_of_few_tokens` has done so.
        resident: Which of its layers are in the device's memory.
        at_once: How many images it is given at once.
    """

    name: str
    provider: LayerFeatureProvider
    match: Match
    scheduler: DifficultyScheduler
    macs: LayerMacs
    embedding_macs: int
    head_macs: list[int]
    batch_size: int
    ranks: Ranks
    cache: FeatureCache | None = None
    warned: bool = False
    resident: ResidentLayers = field(init=False)
    at_once: int = field(init=False)

    def place(self, device: torch.device, autocast: torch.dtype | None) -> None:
        """Put it where it computes.

        Args:
            device: Where that is.
            autocast: The type that its matrix products are computed in, if it is not float32.
        """
        _ = self.fingerprint  # of the weights as they were given
        self.resident = ResidentLayers(self.provider, device)  # tries the network in float32
        if autocast is not None:
            matrices_to(self.provider.model, autocast)
        self.at_once = _fitting_images(self.provider) if device.type == "cpu" else self.batch_size

    def features(
        self, pixels: Tensor, digests: Tensor | None = None, stamp: Stamp | None = None
    ) -> TeacherFeatures:
        """What this step's target asks of the teacher.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            digests: (B, 16), of the bytes that the pixels were made of; without them nothing is looked up.
            stamp: This step, for what is kept of it.

        Raises:
            PluginError: The scheduler chose a layer that is none.
        """
        target, choices = self.scheduler.target, self.match.target.choices
        if target not in range(choices):
            raise PluginError(
                f"{type(self.scheduler).__name__} chose {target!r}, "
                f"not the 0-based index of one of {choices} layers",
                "Mend the scheduler; leapcore.testing.check_scheduler finds the step.",
            )
        compute = partial(self._computed, target)
        if self.cache is None or digests is None or stamp is None:
            return compute(pixels)
        return self.cache.features(self.match.teacher_layers(target), pixels, digests, stamp, compute)

    def _computed(self, target: int, pixels: Tensor) -> TeacherFeatures:
        """In pieces that fit the machine, and with no more layers in the device's memory than needed."""
        # The layer after the deepest is the one that a curriculum asks for next.
        self.resident.keep(range(max(self.match.teacher_layers(target)) + 2))
        pieces = pixels.chunk(-(-len(pixels) // self.at_once))
        return TeacherFeatures.joined(
            [self.match.teacher_features(self.provider, piece, target) for piece in pieces]
        )

    @cached_property
    def fingerprint(self) -> str:
        """Tells its weights from others: a hash of all of them."""
        return weights_digest(self.provider)

    @property
    def step_macs(self) -> int:
        """MACs per image of :meth:`features`, where nothing is known before."""
        return self.target_macs(self.scheduler.target)

    def target_macs(self, layer: int) -> int:
        """The same while ``layer`` is the target."""
        return self.macs.until(*self.match.teacher_layers(layer)) + self.embedding_macs

    @property
    def baseline_macs(self) -> int:
        """The same while the target is the deepest that the curriculum may choose."""
        return self.macs.until(*(pair.teacher for pair in self.deepest_pairs)) + self.embedding_macs

    @property
    def deepest_pairs(self) -> list[Pair]:
        """The pairs of layers while the target is the deepest that the curriculum may choose."""
        return self.match.target.pairs(self.match.target.choices - 1)

    def each_layer(self, pixels: Tensor) -> Iterator[LayerFeatures]:
        """One layer's normalised features after the other, with two layers at most in the device's memory.

        Args:
            pixels: (B, 3, H, W) in [0, 1].
        """
        for layer, features in enumerate(self.provider.iter_layers(self.provider.prepare(pixels))):
            self.resident.keep([layer, layer + 1])
            yield self.match.target_norm(self.provider, features, layer)

    @torch.no_grad()
    def calibrate(self, distiller: Callable[..., Distillation], pixels: Tensor) -> tuple[list[float], int]:
        """The student's alignment with every layer, in one pass of the teacher, and what scoring took.

        Returns:
            A score per layer that the curriculum may choose, and the MACs of measuring them all.
        """
        scores, macs = [], 0
        for _, features in zip(range(self.match.target.choices), self.each_layer(pixels), strict=False):
            result = distiller(pixels, {self.name: TeacherFeatures([features])})
            comparison = result.comparisons[self.name]
            scores.append(self.score(comparison).item())
            macs += self.score_macs(comparison)
        return scores, macs

    def score(self, comparison: Comparison) -> Tensor:
        """The alignment that the scheduler listens to: that of the whole batch, the same on every process."""
        images = self.ranks.mine_among_first(self._sampled_images, self.batch_size)
        mine, rows = images * self._tokens_per_image(comparison), self._sampled(comparison)
        parts = WHOLE if self.ranks.size == 1 else self.ranks
        score = ALIGNMENTS[self._alignment].score
        return score(comparison.projected[:mine], comparison.target[:mine], parts=parts, rows=rows)

    def score_macs(self, comparison: Comparison) -> int:
        """MACs of :meth:`score`."""
        return ALIGNMENTS[self._alignment].macs(self._sampled(comparison), comparison.target.shape[1])

    def warn_of_few_tokens(self, comparison: Comparison) -> None:
        """Say so once if the score is measured on too few tokens for the width; deep stages have fewest."""
        tokens, width = self._sampled(comparison), comparison.target.shape[1]
        if self._alignment == "cka" and tokens < FEW * width and not self.warned:
            self.warned = True
            logger.warning(
                "linear CKA is measured on %d tokens of width %d: so few make it too high. "
                "Set curriculum.unbiased: true, or use larger batches.",
                tokens,
                width,
            )

    @property
    def _alignment(self) -> str:
        name = self.scheduler.alignment
        assert name is not None, "only schedulers that name an alignment are given scores"
        return name

    def _sampled(self, comparison: Comparison) -> int:
        """How many tokens the score is measured on: those of the first ``sample_images`` images."""
        return self._sampled_images * self._tokens_per_image(comparison)

    @property
    def _sampled_images(self) -> int:
        return min(self.scheduler.sample_images or self.batch_size, self.batch_size)

    def _tokens_per_image(self, comparison: Comparison) -> int:
        return len(comparison.target) * self.ranks.size // self.batch_size


def _fitting_images(provider: LayerFeatureProvider) -> int:
    """Of how many images a CPU's caches hold the widest activations, four times as wide as a layer.

    A frozen backbone sees each image by itself, so that a batch in pieces costs the same arithmetic, but
    finds what it has just computed in the cache: 18 % less time for a ViT 192 wide and 64 images.
    """
    height, width = provider.image_input.size
    values = max(
        layer.channels * max(1, height // layer.stride) * max(1, width // layer.stride)
        for layer in provider.layers
    )
    return max(1, CACHE * torch.get_num_threads() // (4 * 4 * values))
