"""A student as a .pt2 file of torch.export: it computes what torch does, anywhere, or is not kept."""

import json
import os
import subprocess
import sys

import pytest
import torch
from shared import Layer
from torch import nn

from leapcore import ImageInput, LayerFeatureProvider, LayerFeatures, LayerInfo, build_backbone
from leapcore.errors import OutputError
from leapcore.export.pt2 import METADATA, export_pt2


class OneLayer(LayerFeatureProvider):
    """A network that timm does not know."""

    def __init__(self, network):
        super().__init__([LayerInfo("0", 8, 4)], ImageInput((16, 16), (0.5,) * 3, (0.25,) * 3))
        self.model = network

    def iter_layers(self, images):
        yield LayerFeatures.from_nchw(self.model(images))


class Text(OneLayer):
    def example_input(self, batch_size=1):
        return torch.zeros(batch_size, 7, dtype=torch.long)


@pytest.mark.parametrize(
    ("family", "model", "size", "options"),
    [
        ("vit", "vit_tiny_patch16_224", 32, {"depth": 2, "embed_dim": 24, "num_heads": 2}),
        ("convnext", "convnext_atto", 64, {"depths": (1, 1, 2, 1)}),
        ("hierarchical", "hiera_tiny_224", 64, {"embed_dim": 24, "stages": (1, 1, 1, 1)}),
        ("hybrid", "efficientformer_l1", 224, {"depths": (1, 1, 1, 1), "num_vit": 1}),
        (
            "hybrid",
            "coatnet_0_rw_224",
            64,
            {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64), "stem_width": 16},
        ),
        ("timm", "mobilenetv3_small_050", 64, {}),
    ],
)
def test_the_file_is_the_timm_model_for_any_batch_size(tmp_path, family, model, size, options):
    student = build_backbone(family, model=model, image_size=size, options=options)
    path = tmp_path / "new" / "student.pt2"
    assert 0 <= export_pt2(student, path) < 1e-5
    assert [file.name for file in path.parent.iterdir()] == ["student.pt2"]
    features = torch.export.load(path).module()
    for batch_size in (1, 5):
        pixels = torch.rand(batch_size, 3, size, size)
        with torch.no_grad():
            expected = student.eval().model(student.prepare(pixels))
        torch.testing.assert_close(
            features(pixels), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


def test_the_file_is_described_and_names_no_path_of_this_machine(tmp_path, vit):
    student, path = vit(), tmp_path / "student.pt2"
    export_pt2(student, path)
    extra = {METADATA: ""}
    torch.export.load(path, extra_files=extra)
    metadata = json.loads(extra[METADATA])
    assert json.loads(metadata["mean"]) == pytest.approx(student.image_input.mean)
    assert json.loads(metadata["std"]) == pytest.approx(student.image_input.std)
    assert metadata["input"] == "RGB pixels in [0, 1]; normalisation is part of the network"
    assert b".py" not in path.read_bytes()


LOADER = """\
import sys
import torch

features = torch.export.load("student.pt2").module()(torch.load("pixels.pt"))
torch.save(features, "features.pt")
print(*(name for name in ("leapcore", "timm") if name in sys.modules))
"""


def test_torch_alone_runs_it(tmp_path, vit):
    student, pixels = vit(), torch.rand(3, 3, 28, 28)
    export_pt2(student, tmp_path / "student.pt2")
    torch.save(pixels, tmp_path / "pixels.pt")
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOADER], cwd=tmp_path, env=alone, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("\n", "")
    with torch.no_grad():
        expected = student.model(student.prepare(pixels))
    torch.testing.assert_close(torch.load(tmp_path / "features.pt"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        pytest.param(
            lambda x: torch.stack([image * 2 for image in x]), "cannot be written as .pt2", id="fixed batch"
        ),
        pytest.param(lambda x: x if x.sum() > 0 else -x, "cannot be written as .pt2", id="branch on a value"),
        pytest.param(lambda x: x + torch.rand_like(x), "differ from torch's by", id="random"),
        pytest.param(lambda x: x * float("nan"), "differ from torch's by nan", id="not finite"),
    ],
)
def test_a_file_that_gives_other_features_is_not_kept(tmp_path, layer, cause, capfd, recwarn):
    path = tmp_path / "student.pt2"
    path.write_bytes(b"earlier")
    student = OneLayer(nn.Sequential(nn.Conv2d(3, 8, 4, 4), Layer(layer)))
    with pytest.raises(OutputError, match=cause) as caught:
        export_pt2(student, path)
    assert "\n" not in caught.value.cause
    assert len(caught.value.cause) < 500
    assert caught.value.remedy
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_a_student_that_reads_no_images_is_refused(tmp_path):
    with pytest.raises(OutputError, match="reads images"):
        export_pt2(Text(nn.Conv2d(3, 8, 4, 4)), tmp_path / "student.pt2")
    assert not list(tmp_path.iterdir())
