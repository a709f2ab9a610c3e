"""How alike a teacher's layers are to the next one and to its last: does a walk through them lead anywhere?

python benchmarks/teacher_layers.py benchmarks/transfer/spec.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from torch import Tensor

from leapcore import LayerFeatures, Spec, image_splits
from leapcore.bench.matrix import cells
from leapcore.bench.spec import load_bench
from leapcore.data.batches import evaluation_sample
from leapcore.evaluation.cka_map import cka_map
from leapcore.evaluation.extract import evaluating
from leapcore.models.build import backbone_of

IMAGES = 256


def main() -> None:
    found = cells(load_bench(sys.argv[1]))
    specs = {cell.teacher: cell.spec for cell in reversed(found)}
    for name, spec in reversed(specs.items()):
        table = own_map(spec)
        row("teacher " + name, [str(layer + 1) for layer in range(len(table))])
        row("---", ["---"] * len(table))
        row("to its last", [f"{layer[-1]:.2f}" for layer in table])
        row("to the next", [f"{table[index][index + 1]:.2f}" for index in range(len(table) - 1)])
        print()


def own_map(spec: Spec) -> list[list[float]]:
    """Linear CKA of each of the teacher's layers with each other, on the first validation images."""
    (wanted,) = spec.each_teacher.values()
    teacher = backbone_of(wanted, spec.data.image_size)
    images = evaluation_sample(image_splits(spec).val, spec.data, IMAGES)

    def layers(pixels: Tensor) -> Iterator[LayerFeatures]:
        return teacher.iter_layers(teacher.prepare(pixels))

    with evaluating(teacher):
        return cka_map(layers, layers, (part.float() / 255 for part in images.split(32)))


def row(label: str, values: list[str]) -> None:
    print("| " + " | ".join([label, *values]) + " |")


if __name__ == "__main__":
    main()
