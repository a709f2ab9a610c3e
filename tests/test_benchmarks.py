"""What the benchmarks keep in the repository fits together."""

import json
from pathlib import Path

import pytest

from leapcore import load_spec
from leapcore.engine.setup import backbone

ROOT = Path(__file__).parents[1]


@pytest.fixture
def spec(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_spec("benchmarks/fashion_mnist/spec.yaml")


def test_the_fashion_mnist_student_is_at_most_a_quarter_of_its_teacher(spec):
    teacher, student = (backbone(b, spec.data.image_size) for b in (spec.teacher, spec.student))
    sizes = [sum(p.numel() for p in provider.parameters()) for provider in (teacher, student)]
    assert len(teacher.layers) == 12
    assert sizes[1] <= sizes[0] / 4


def test_the_fashion_mnist_teacher_is_good_and_small(spec):
    folder = Path(spec.teacher.weights)
    record = json.loads((folder / "training.json").read_text())
    assert record["test_accuracy"] >= 0.9
    assert (folder / "model.safetensors").stat().st_size <= 6e6
    assert record["data"]["source"] == spec.data.source
