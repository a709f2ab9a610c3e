import json
import os
from pathlib import Path

import pytest

# One thread per test process: the sizes here are too small for more to pay.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Numbers that the method's reference code produced, by file name."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture
def vit():
    """Builds a small ViT provider: 28 px, 4 x 4 tokens, random weights."""
    from leapcore.plugins import installed_plugins

    def build(image_size=28, model="vit_tiny_patch16_224", **options):
        small = {"patch_size": 7, "embed_dim": 24, "depth": 4, "num_heads": 3}
        factory = installed_plugins().get("backbones", "vit")
        return factory(
            model=model, weights="none", image_size=image_size, options={**small, **options}
        ).eval()

    return build
