"""Write what all programs of the comparison read: images as PNG files, and a random teacher's weights.

    python benchmarks/fashion_mnist/prepare.py data/fashion-mnist
    python benchmarks/peers/prepare.py

The weights are laid out as DINOv2's own, which lightly-train loads as they are and timm converts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapcore import Spec, load_spec
from leapcore.compat import torchvision_operators
from leapcore.models.build import backbone_of

SPEC = Path(__file__).with_name("spec.yaml")
VALIDATION = 64  # images that leapcore wants to have and does not look at here


def prepare(images: Iterable[Any], output: Path) -> None:
    """Write images, the first :data:`VALIDATION` of them for validation, and ``teacher.pth``."""
    for number, image in enumerate(images):
        folder = output / ("val" if number < VALIDATION else "train") / "images"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:05}.png")
    folders = [f"data.{part}={output / part}" for part in ("train", "val")]
    spec = load_spec(SPEC, [*folders, "teacher.weights=none"])
    torch.save(random_teacher(spec), output / "teacher.pth")


def random_teacher(spec: Spec) -> dict[str, Tensor]:
    """The weights of the spec's teacher, under DINOv2's names."""
    torch.manual_seed(spec.train.seed)
    model: Any = backbone_of(spec.teacher, spec.data.image_size).model
    weights = model.state_dict()
    positions = weights["pos_embed"]
    weights["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    weights["register_tokens"] = weights.pop("reg_token")
    weights["mask_token"] = torch.zeros_like(positions[:, 0])
    return weights


def _fashion_mnist(root: Path, count: int) -> Iterable[Any]:
    torchvision_operators()
    from torchvision.datasets import FashionMNIST

    images = FashionMNIST(root)
    return (images[number][0] for number in range(VALIDATION + count))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--images", type=int, default=2000, help="training images")
    parser.add_argument("--output", type=Path, default=Path("runs/peers/data"))
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    prepare(_fashion_mnist(arguments.fashion_mnist, arguments.images), arguments.output)
