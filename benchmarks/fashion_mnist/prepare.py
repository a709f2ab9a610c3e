"""Put Fashion-MNIST where torchvision looks for it, from Debian's package or from the network.

    apt-get install dataset-fashion-mnist        # or let torchvision download it
    python benchmarks/fashion_mnist/prepare.py data/fashion-mnist
    python benchmarks/fashion_mnist/prepare.py data/fashion-mnist --held-out 10000 data/fashion-mnist-held-out

A spec then names it: ``data: {source: torch/fashion_mnist, root: data/fashion-mnist, val: validation}``. The
last command puts the first 50,000 training images into another root as its training images, and the other
10,000 as its test images: settings are tuned there, so that the test images stay unseen.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import struct
from pathlib import Path

from leapcore.compat import torchvision_operators

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
KINDS = ("images-idx3", "labels-idx1")


def prepare(root: Path, packaged: Path = DEBIAN) -> None:
    """Unpack the package's files, or download, unless they are there already."""
    raw = raw_folder(root)
    if packaged.is_dir():
        raw.mkdir(parents=True, exist_ok=True)
        for archive in packaged.glob("*-ubyte.gz"):
            if not (raw / archive.stem).exists():
                with gzip.open(archive) as source, (raw / archive.stem).open("wb") as target:
                    shutil.copyfileobj(source, target)
    torchvision_operators()
    from torchvision.datasets import FashionMNIST

    FashionMNIST(root, download=not packaged.is_dir())


def hold_out(root: Path, count: int, target: Path) -> None:
    """Split the training images of one root into training and test images of another."""
    raw_folder(target).mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        whole = (raw_folder(root) / f"train-{kind}-ubyte").read_bytes()
        kept, held = split_idx(whole, count)
        (raw_folder(target) / f"train-{kind}-ubyte").write_bytes(kept)
        (raw_folder(target) / f"t10k-{kind}-ubyte").write_bytes(held)


def split_idx(whole: bytes, count: int) -> tuple[bytes, bytes]:
    """A file in the IDX format without its last ``count`` items, and these alone."""
    dimensions = whole[3]
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", whole[: 4 + 4 * dimensions])
    body = whole[4 + 4 * dimensions :]
    cut = (sizes[0] - count) * (len(body) // sizes[0])
    parts = ((sizes[0] - count, body[:cut]), (count, body[cut:]))
    kept, held = (struct.pack(f">{1 + dimensions}I", magic, n, *sizes[1:]) + items for n, items in parts)
    return kept, held


def raw_folder(root: Path) -> Path:
    """Where torchvision looks for the files."""
    return root / "FashionMNIST" / "raw"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=Path("data/fashion-mnist"))
    parser.add_argument("--held-out", nargs=2, metavar=("COUNT", "ROOT"))
    arguments = parser.parse_args()
    prepare(arguments.root)
    if arguments.held_out:
        hold_out(arguments.root, int(arguments.held_out[0]), Path(arguments.held_out[1]))
