"""Which part of a batch an alignment is measured on, where several processes hold the batch."""

from __future__ import annotations

from torch import Tensor

from leapcore.core.alignment import ALIGNMENTS, WHOLE, Parts


class BatchAlignment:
    """The alignment of a batch of which each process holds a share, measured on its first images.

    Args:
        name: Of the score, in :data:`ALIGNMENTS`.
        batch_size: Images per step, over all processes.
        sample_images: On how many images it is measured; None for all of them.
        parts: Who holds the batch.
        share: Which of its images are here.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        sample_images: int | None = None,
        *,
        parts: Parts = WHOLE,
        share: slice | None = None,
    ) -> None:
        self.name = name
        share = share or slice(0, batch_size)
        self._score = ALIGNMENTS[name]
        self._images = min(sample_images or batch_size, batch_size)
        self._held = share.stop - share.start
        self._sampled_here = min(max(self._images - share.start, 0), self._held)
        self._parts = parts

    def __call__(self, projected: Tensor, target: Tensor) -> Tensor:
        """The score of the whole batch, the same on every process.

        Args:
            projected: (B * N, C), the projected tokens of this process's images, image by image.
            target: (B * N, C), the teacher's.
        """
        per_image = len(target) // self._held
        rows = self._sampled_here * per_image
        return self._score.score(
            projected[:rows], target[:rows], parts=self._parts, rows=self.tokens(per_image)
        )

    def tokens(self, per_image: int) -> int:
        """On how many tokens it is measured, over all processes, of so many tokens per image."""
        return self._images * per_image

    def macs(self, per_image: int, channels: int) -> int:
        """Multiply-adds of measuring it once."""
        return self._score.macs(self.tokens(per_image), channels)
