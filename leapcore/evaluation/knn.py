"""k-nearest-neighbour accuracy, the usual first look at frozen features (Wu et al. 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from leapcore.evaluation.extract import Features

NEIGHBOURS = 20
TEMPERATURE = 0.07
SIMILARITIES = 2**27  # held at once: 512 MiB, 104 queries against ImageNet-1K


@torch.no_grad()
def knn_accuracy(
    memory: Features, queries: Features, *, neighbours: int = NEIGHBOURS, temperature: float = TEMPERATURE
) -> float:
    """Share of queries whose class wins the vote of their nearest neighbours.

    A neighbour of cosine similarity s votes with weight exp(s / temperature).

    Args:
        memory: Training features.
        queries: Validation features.
        neighbours: How many vote; all of them where the memory is smaller.
        temperature: The smaller, the more the nearest weigh.

    Example:
        >>> import torch
        >>> from leapcore import Features, knn_accuracy
        >>> memory = Features(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> queries = Features(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0, 1, 1]))
        >>> round(knn_accuracy(memory, queries, neighbours=1), 2)
        0.67
    """
    classes = int(max(memory.labels.max(), queries.labels.max())) + 1
    keys = F.normalize(memory.vectors, dim=1)
    at_once = max(1, SIMILARITIES // len(keys))
    hits = 0
    for vectors, labels in zip(queries.vectors.split(at_once), queries.labels.split(at_once), strict=True):
        similarity = F.normalize(vectors, dim=1) @ keys.T
        nearest, index = similarity.topk(min(neighbours, len(keys)), dim=1)
        votes = torch.zeros(len(vectors), classes, device=keys.device)
        votes.scatter_add_(1, memory.labels[index], (nearest / temperature).exp())
        hits += int((votes.argmax(1) == labels).sum())
    return hits / len(queries.labels)
