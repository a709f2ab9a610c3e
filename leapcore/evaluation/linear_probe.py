"""Linear probe: how well one linear layer on frozen features separates the classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leapcore.evaluation.extract import Features


class ProbeResult(NamedTuple):
    """Accuracy on the validation set, as shares.

    Attributes:
        last: Top-1 after the last epoch: the figure to quote.
        best: Top-1 of the best epoch, as LEAP's code reports it; chosen on the validation set, so too good.
        top5: Top-5 after the last epoch; None where there are at most five classes.
    """

    last: float
    best: float
    top5: float | None


def linear_probe(
    train: Features,
    val: Features,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 0.1,
    seed: int = 0,
) -> ProbeResult:
    """Train a linear classifier as LEAP's evaluation does.

    It starts from zero; SGD with momentum 0.9 and no decay, cosine over the epochs.

    Args:
        train: Training features.
        val: Validation features.
        epochs: Passes over the training features.
        batch_size: Vectors per step.
        lr: Learning rate of the first epoch.
        seed: Seed of the shuffle.

    Example:
        >>> import torch
        >>> from leapcore import Features, linear_probe
        >>> features = Features(torch.eye(6).repeat(4, 1), torch.arange(6).repeat(4))
        >>> linear_probe(features, features, epochs=10)
        ProbeResult(last=1.0, best=1.0, top5=1.0)
    """
    classes = int(max(train.labels.max(), val.labels.max())) + 1
    head = nn.Linear(train.vectors.shape[1], classes, device=train.vectors.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    accuracies = []
    for _ in range(epochs):
        order = torch.randperm(len(train.labels), generator=generator).to(train.labels.device)
        for batch in order.split(batch_size):
            _update(head, optimizer, train.vectors[batch], train.labels[batch])
        schedule.step()
        accuracies.append(_accuracy(head, val, 1))
    return ProbeResult(accuracies[-1], max(accuracies), _accuracy(head, val, 5) if classes > 5 else None)


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose class is among the k highest scores.

    Args:
        scores: (n, classes).
        labels: (n,).
        k: How many answers count.

    Raises:
        ValueError: There are fewer than k classes (LEAP's code reports 0 then).
    """
    if scores.shape[1] < k:
        raise ValueError(f"top-{k} accuracy needs at least {k} classes, these are {scores.shape[1]}")
    return (scores.topk(k, dim=1).indices == labels.unsqueeze(1)).any(1).float().mean().item()


def _update(head: nn.Linear, optimizer: torch.optim.Optimizer, vectors: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(head(vectors), labels).backward()
    optimizer.step()


@torch.no_grad()
def _accuracy(head: nn.Linear, features: Features, k: int) -> float:
    return top_k_accuracy(head(features.vectors), features.labels, k)
