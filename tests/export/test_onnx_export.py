import json
import logging
import sys

import pytest
import torch
from shared import Layer
from torch import nn

from leapcore import ImageInput, LayerFeatureProvider, LayerFeatures, LayerInfo
from leapcore.errors import OutputError
from leapcore.export.check import LARGEST_DEVIATION
from leapcore.export.onnx import export_onnx
from leapcore.plugins.loader import installed_plugins


@pytest.fixture(scope="module", autouse=True)
def ort():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


def build(family, model, image_size, **options):
    factory = installed_plugins().get("backbones", family)
    return factory(model=model, weights="none", image_size=image_size, options=options)


def run(ort, path, images):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


def files(folder):
    return sorted(path.name for path in folder.iterdir())


class Own(LayerFeatureProvider):
    """A network that is not timm's: one layer, a class token in front, a norm in the end."""

    def __init__(self, network=None):
        super().__init__([LayerInfo("0", 8, 4)], ImageInput((16, 16), (0.5,) * 3, (0.25,) * 3))
        self.model = nn.Sequential(network or nn.Conv2d(3, 8, 4, 4))
        self.norm = nn.LayerNorm(8)

    def iter_layers(self, images):
        yield LayerFeatures.from_nchw(self.model(images))

    def finalize(self, features, layer):
        return features.map(self.norm)


class Text(Own):
    def example_input(self, batch_size=1):
        return torch.zeros(batch_size, 7, dtype=torch.long)


@pytest.mark.parametrize(
    ("family", "model", "image_size", "options"),
    [
        ("vit", "vit_tiny_patch16_224", 32, {"depth": 2, "embed_dim": 24, "num_heads": 2}),
        ("vit", "vit_base_patch16_siglip_224", 32, {"depth": 2, "embed_dim": 24, "num_heads": 2}),
        ("convnext", "convnext_atto", 64, {"depths": (1, 1, 2, 1)}),
        (
            "hierarchical",
            "swin_tiny_patch4_window7_224",
            56,
            {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
        ),
        ("hierarchical", "hiera_tiny_224", 64, {"embed_dim": 24, "stages": (1, 1, 1, 1)}),
        ("hybrid", "efficientformer_l1", 224, {"depths": (1, 1, 1, 1), "num_vit": 1}),
        (
            "hybrid",
            "coatnet_0_rw_224",
            64,
            {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64), "stem_width": 16},
        ),
    ],
)
def test_the_file_is_the_timm_model_for_any_batch_size(ort, tmp_path, family, model, image_size, options):
    student = build(family, model, image_size, **options)
    deviation = export_onnx(student, tmp_path / "student.onnx")
    assert 0 <= deviation < 1e-5
    assert files(tmp_path) == ["student.onnx"]  # weights included, nothing temporary
    student.eval()
    for batch_size in (1, 4, 7):
        images = torch.rand(batch_size, 3, image_size, image_size)
        with torch.no_grad():
            expected = student.model(student.prepare(images))
        assert expected.ndim == 2
        found = run(ort, tmp_path / "student.onnx", images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_input_and_output_are_described_in_the_file(ort, tmp_path, vit):
    student = vit(image_size=28)
    export_onnx(student, tmp_path / "new" / "student.onnx")
    session = ort.InferenceSession(str(tmp_path / "new" / "student.onnx"))
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["batch", 3, 28, 28])
    assert (features.name, features.shape) == ("features", ["batch", 24])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["mean"]) == pytest.approx(student.image_input.mean)
    assert json.loads(metadata["std"]) == pytest.approx(student.image_input.std)
    assert metadata["input"] == "RGB pixels in [0, 1]; normalisation is part of the network"
    written = (tmp_path / "new" / "student.onnx").read_bytes()
    assert b".py" not in written  # no source lines, no paths of the machine that wrote it


def test_another_network_gives_the_pooled_vector_of_its_last_layer(ort, tmp_path):
    student = Own().eval()
    export_onnx(student, tmp_path / "student.onnx")
    images = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        expected = student(student.prepare(images), [0])[0].pooled
    torch.testing.assert_close(run(ort, tmp_path / "student.onnx", images), expected, rtol=1e-4, atol=1e-5)


def test_timms_model_without_pooling_gives_the_pooled_vector_too(ort, tmp_path, vit):
    student = vit(global_pool="")
    export_onnx(student, tmp_path / "student.onnx")
    images = torch.rand(5, 3, 28, 28)
    with torch.no_grad():
        assert student.model(student.prepare(images)).ndim == 3
        expected = student(student.prepare(images), [len(student.layers) - 1])[0].pooled
    torch.testing.assert_close(run(ort, tmp_path / "student.onnx", images), expected, rtol=1e-4, atol=1e-5)


def test_the_student_and_its_surroundings_are_left_as_they_were(ort, tmp_path, vit, capfd, caplog, recwarn):
    student = vit(drop_rate=0.5).to(torch.bfloat16).train()
    student.model.blocks[1].eval()
    student.checkpoint_gradients()
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = [module.training for module in student.modules()]
    fused = [getattr(module, "fused_attn", None) for module in student.modules()]
    before = {
        name: (id(tensor), tensor.clone()) for name, tensor in student.state_dict(keep_vars=True).items()
    }
    random, disabled = torch.get_rng_state(), logging.root.manager.disable

    assert export_onnx(student, tmp_path / "student.onnx") <= LARGEST_DEVIATION

    assert [module.training for module in student.modules()] == modes
    assert [getattr(module, "fused_attn", None) for module in student.modules()] == fused
    assert True in fused
    for name, tensor in student.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0]
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name][1])
    assert all(p.requires_grad and (p.grad == 1).all() for p in student.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert logging.root.manager.disable == disabled
    assert capfd.readouterr() == ("", "")
    assert not [r for r in caplog.records if r.levelno >= logging.INFO]  # torch's own trace is for a file
    assert not recwarn.list


def test_batch_norms_keep_their_statistics(tmp_path):
    student = build("convnext", "resnet18", 32, channels=(8, 8, 16, 16), layers=(1, 1, 1, 1)).train()
    before = {name: buffer.clone() for name, buffer in student.named_buffers()}
    export_onnx(student, tmp_path / "student.onnx")
    assert all(torch.equal(buffer, before[name]) for name, buffer in student.named_buffers())


def test_weights_too_large_for_one_file_lie_beside_it(ort, tmp_path, vit, monkeypatch):
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)  # else gigabytes are needed
    student = vit()
    export_onnx(student, tmp_path / "student.onnx")
    assert files(tmp_path) == ["student.onnx", "student.onnx.data"]
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        expected = student.model(student.prepare(images))
    torch.testing.assert_close(run(ort, tmp_path / "student.onnx", images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_remedy(tmp_path, vit, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # its import fails
    with pytest.raises(OutputError, match=package) as caught:
        export_onnx(vit(), tmp_path / "new" / "student.onnx")
    assert "pip install 'leapcore[onnx]'" in caught.value.remedy
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("layer", "cause"),
    [
        pytest.param(lambda x: torch.linalg.svd(x).U, "linalg_svd", id="unknown operator"),
        pytest.param(lambda x: x if x.sum() > 0 else -x, "data-dependent", id="branch on a value"),
        pytest.param(
            lambda x: torch.stack([image * 2 for image in x]),
            "INVALID_ARGUMENT|InvalidArgument",
            id="fixed batch",
        ),
        pytest.param(lambda x: x + torch.rand_like(x), "differ from torch's by", id="random"),
        pytest.param(lambda x: x * float("nan"), "differ from torch's by nan", id="not finite"),
    ],
)
def test_a_network_that_onnx_cannot_express_is_a_clear_error(tmp_path, capfd, layer, cause):
    student = Own(nn.Sequential(nn.Conv2d(3, 8, 4, 4), Layer(layer)))
    with pytest.raises(OutputError, match=cause) as caught:
        export_onnx(student, tmp_path / "student.onnx")
    assert "\n" not in caught.value.cause
    assert len(caught.value.cause) < 500
    assert caught.value.remedy
    assert files(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_an_earlier_file_outlives_a_failure_and_gives_way_to_success(tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(b"earlier")
    with pytest.raises(OutputError):
        export_onnx(Own(nn.Sequential(nn.Conv2d(3, 8, 4, 4), Layer(lambda x: torch.linalg.svd(x).U))), path)
    assert path.read_bytes() == b"earlier"
    export_onnx(Own(), path)
    assert path.read_bytes() != b"earlier"
    assert files(tmp_path) == ["student.onnx"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_an_export_that_is_cut_short(tmp_path, monkeypatch, interruption):
    def cut_short(program, destination, **_):
        with open(destination, "wb") as file:
            file.write(b"half")
        raise interruption

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", cut_short)
    with pytest.raises((KeyboardInterrupt, OutputError)) as caught:
        export_onnx(Own(), tmp_path / "student.onnx")
    if caught.type is OutputError:
        assert "No space left" in caught.value.cause
        assert "student.onnx" in caught.value.cause
    assert files(tmp_path) == []


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"student\.onnx' cannot be written"):
        export_onnx(Own(), tmp_path / "file" / "student.onnx")


def test_a_student_that_reads_no_images_is_refused(tmp_path):
    with pytest.raises(OutputError, match="reads images"):
        export_onnx(Text(), tmp_path / "student.onnx")
    assert files(tmp_path) == []
