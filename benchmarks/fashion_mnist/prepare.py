"""Put Fashion-MNIST where torchvision looks for it, from Debian's package or from the network.

    apt-get install dataset-fashion-mnist        # or let torchvision download it
    python benchmarks/fashion_mnist/prepare.py data/fashion-mnist

A spec then names it: ``data: {source: torch/fashion_mnist, root: data/fashion-mnist, val: validation}``.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

from leapcore.compat import torchvision_operators

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def prepare(root: Path, packaged: Path = DEBIAN) -> None:
    """Unpack the package's files, or download, unless they are there already."""
    raw = root / "FashionMNIST" / "raw"
    if packaged.is_dir():
        raw.mkdir(parents=True, exist_ok=True)
        for archive in packaged.glob("*-ubyte.gz"):
            if not (raw / archive.stem).exists():
                with gzip.open(archive) as source, (raw / archive.stem).open("wb") as target:
                    shutil.copyfileobj(source, target)
    torchvision_operators()
    from torchvision.datasets import FashionMNIST

    FashionMNIST(root, download=not packaged.is_dir())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", default=Path("data/fashion-mnist"))
    prepare(parser.parse_args().root)
