import math

import numpy as np
import pytest
import torch

from leapcore.evaluation.extract import Features, extract_features
from leapcore.evaluation.knn import knn_accuracy
from leapcore.evaluation.linear_probe import linear_probe, top_k_accuracy


def _golden_features(case):
    random = np.random.RandomState(case["seed"])
    classes, width = case["K"], case["D"]
    centres = random.randn(classes, width)
    parts = []
    for count in (case["Ntr"], case["Nva"]):
        labels = random.randint(0, classes, count)
        vectors = centres[labels] * case["sep"] + random.randn(count, width)
        parts.append(Features(torch.from_numpy(vectors.astype(np.float32)), torch.from_numpy(labels)))
    return parts


def test_linear_probe_equals_the_reference(golden):
    compared = 0
    for case in golden("linear")["cases"]:
        if case["weight_decay"]:
            continue
        train, val = _golden_features(case)
        result = linear_probe(train, val, epochs=case["epochs"], batch_size=len(train.labels), lr=case["lr"])
        assert 100 * result.best == pytest.approx(case["best_top1"], abs=1e-4)
        last = float(case["log"][-2].split("Top-1:")[1].split("%")[0])
        assert 100 * result.last == pytest.approx(last, abs=0.01)
        compared += 1
    assert compared > 0


def test_top_k_accuracy_equals_the_reference_where_there_are_enough_classes(golden):
    random = np.random.RandomState(9)
    scores = torch.from_numpy(random.randn(50, 7).astype(np.float32))
    labels = torch.from_numpy(random.randint(0, 7, 50))
    enough, few = golden("linear")["accuracy"]
    found = [100 * top_k_accuracy(scores, labels, k) for k in enough["topk"]]
    assert found == pytest.approx(enough["value"], abs=1e-4)
    assert 100 * top_k_accuracy(scores[:, :3], labels % 3, 1) == pytest.approx(few["value"][0], abs=1e-4)
    with pytest.raises(ValueError, match="top-5 accuracy needs at least 5 classes, these are 3"):
        top_k_accuracy(scores[:, :3], labels % 3, 5)


@pytest.mark.parametrize(("classes", "expected"), [(5, None), (6, 1.0)])
def test_top_5_is_left_out_where_every_answer_would_be_right(classes, expected):
    features = Features(10 * torch.eye(classes), torch.arange(classes))
    assert linear_probe(features, features, epochs=30).top5 == expected


def test_knn_votes_are_weighted_by_similarity():
    def at(*degrees):
        return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    memory = Features(at(0, 40, 41), torch.tensor([0, 1, 1]))
    query = Features(at(5), torch.tensor([0]))
    assert knn_accuracy(memory, query, neighbours=3, temperature=0.07) == 1.0
    assert knn_accuracy(memory, query, neighbours=3, temperature=10.0) == 0.0


def test_knn_with_fewer_memories_than_neighbours():
    features = Features(torch.eye(3), torch.tensor([0, 1, 2]))
    assert knn_accuracy(features, features) == 1.0


def test_features_are_pooled_in_eval_mode_and_the_mode_is_put_back(vit):
    provider = vit().train()
    batches = [(torch.full((2, 3, 28, 28), 128, dtype=torch.uint8), torch.tensor([0, 1]))] * 2
    features = extract_features(provider, batches, torch.device("cpu"))
    assert features.vectors.shape == (4, 24)
    assert features.labels.tolist() == [0, 1, 0, 1]
    assert provider.training
    (expected,) = provider.eval()(provider.prepare(torch.full((1, 3, 28, 28), 128 / 255)), [3])
    assert torch.allclose(features.vectors[0], expected.pooled[0], atol=1e-5)
