import pytest
import torch
from safetensors.torch import save_file

from leapcore import create_timm_model
from leapcore.compat import import_timm
from leapcore.errors import SpecError, UnknownNameError, WeightsError
from leapcore.export.student import export_timm

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
MODEL = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = create_timm_model(MODEL, "none", SMALL)
    folder = tmp_path_factory.mktemp("model")
    export_timm(model, folder, SMALL)
    return model, folder


def _same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_an_exported_folder_loads_here_and_with_plain_timm(exported):
    model, folder = exported
    assert _same(model, create_timm_model(None, str(folder), {}))
    assert _same(model, create_timm_model(MODEL, str(folder), {}))
    plain = import_timm().create_model(f"local-dir:{folder}", pretrained=True)
    assert _same(model, plain)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_weights_file_loads(exported, tmp_path, suffix):
    model, _ = exported
    path = tmp_path / f"weights{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(model.state_dict(), path)
    assert _same(model, create_timm_model(MODEL, str(path), SMALL))


def test_the_shipped_teacher_loads_and_is_small():
    model = create_timm_model(None, "asset:digits-vit", {})
    assert len(model.blocks) == 12
    assert sum(p.numel() for p in model.parameters()) * 2 < 2e6


def test_the_classifier_of_a_checkpoint_is_left_out(tmp_path):
    whole = create_timm_model(MODEL, "none", {**SMALL, "num_classes": 10})
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    model = create_timm_model(MODEL, str(tmp_path / "weights.safetensors"), SMALL)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, whole.blocks[1].mlp.fc1.weight)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        create_timm_model(MODEL, str(tmp_path / "evil.pth"), SMALL)
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_named():
    with pytest.raises(WeightsError, match=r"weights 'nowhere\.safetensors' do not exist"):
        create_timm_model(MODEL, "nowhere.safetensors", {})
    with pytest.raises(WeightsError, match=r"no weights named 'digit-vit'\nDid you mean 'digits-vit'"):
        create_timm_model(None, "asset:digit-vit", {})


def test_weights_of_another_architecture_are_named(exported, tmp_path):
    model, folder = exported
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    for options, why in (
        ({"depth": 3}, "12 tensors differ: without blocks.2"),
        ({"depth": 1}, "12 tensors differ: with a strange blocks.1"),
        ({"embed_dim": 48}, "size mismatch"),
    ):
        with pytest.raises(WeightsError, match=rf"cannot be loaded into vit_tiny_patch16_224: (.|\n)*{why}"):
            create_timm_model(MODEL, str(tmp_path / "weights.safetensors"), {**SMALL, **options})
    with pytest.raises(WeightsError, match="are of vit_tiny_patch16_224, not of resnet18"):
        create_timm_model("resnet18", str(folder), {})


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"is no timm model: its config\.json cannot be used"):
        create_timm_model(None, str(tmp_path), {})


def test_a_model_timm_does_not_have_is_named_with_its_nearest():
    with pytest.raises(
        UnknownNameError,
        match=r"timm has no model 'vit_tinny_patch16_224'\nDid you mean .*vit_tiny_patch16_224",
    ):
        create_timm_model("vit_tinny_patch16_224", "none", {})
    with pytest.raises(SpecError, match="no 'model' is named"):
        create_timm_model(None, "none", {})


def test_options_the_model_does_not_take_are_named():
    with pytest.raises(SpecError, match=r"does not take these options: .*'widht'"):
        create_timm_model(MODEL, "none", {"widht": 3})


def test_pretrained_without_a_network_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"pretrained weights of vit_tiny_patch16_224 cannot be had"):
        create_timm_model(MODEL, "pretrained", {})


def test_pretrained_weights_refuse_options_that_leave_random_blocks(monkeypatch):
    timm = import_timm()
    real = timm.create_model

    def downloads_nothing(name, pretrained=False, **options):
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", downloads_nothing)
    for options in ({"depth": 3}, {"embed_dim": 96}, {"qkv_bias": False}):
        with pytest.raises(
            WeightsError, match="pretrained weights of vit_tiny_patch16_224 do not fit the options"
        ):
            create_timm_model(MODEL, "pretrained", options)
    assert create_timm_model(MODEL, "pretrained", {"img_size": 64}) is not None


def test_a_classifier_may_bring_a_norm_that_timm_does_not_list(tmp_path):
    options = {"depth": (1, 1, 1), "img_size": 64}
    whole = create_timm_model("levit_128s", "none", {**options, "num_classes": 10})
    save_file(whole.state_dict(), tmp_path / "levit.safetensors")
    model = create_timm_model("levit_128s", str(tmp_path / "levit.safetensors"), options)
    assert not any(name.startswith("head") for name in model.state_dict())


@pytest.mark.parametrize("size", [0, -5, "abc", [64], [64, 64, 3], 64.5])
def test_an_image_size_is_a_number_of_pixels_or_two(size):
    with pytest.raises(SpecError, match=r"an image size is .*\nGive pixels: a number, or \[height, width\]"):
        create_timm_model("resnet18", "none", {"img_size": size})
