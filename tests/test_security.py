"""What docs/security.md promises: input from strangers runs no code, and stays where it belongs.

Every attack would make the folder ``ran``. An expected failure names what leapcore has yet to refuse.
"""

import ast
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SPEC
from PIL import Image
from torch import nn

from leapcore import create_timm_model, load_spec, load_weights, run
from leapcore.data.batches import evaluation_batches
from leapcore.data.sources import folder, from_timm
from leapcore.errors import DataError, LeapcoreError, SpecError, WeightsError
from leapcore.evaluation.retrieval import read_ground_truth
from leapcore.models.build import build_backbone
from leapcore.models.timm_models import architecture
from leapcore.spec import DataSpec
from leapcore.spec.paths import weights_path
from leapcore.tools.evaluate import load_model

ROOT = Path(__file__).parents[1]
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
VIT = "vit_tiny_patch16_224"


class Evil:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The folder that an attack would make, in the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ran"


@pytest.fixture
def asked(monkeypatch):
    """What timm would have fetched from the network."""
    requests = []

    def fetch(place, *_, **__):
        requests.append(place)
        raise OSError("there is no network here")

    for name in ("_factory.load_model_config_from_hf", "_builder.load_state_dict_from_hf"):
        monkeypatch.setattr(f"timm.models.{name}", fetch)
    for name in ("load_state_dict_from_url", "download_cached_file", "load_custom_from_hf"):
        monkeypatch.setattr(f"timm.models._builder.{name}", fetch)
    return requests


@contextmanager
def refused(kind=LeapcoreError, match=None):
    """The user is told what is wrong, and what to do."""
    with pytest.raises(kind, match=match) as caught:
        yield
    assert caught.value.remedy


# Weights


def _evil_weights(name, marker):
    path = Path(name)
    if name == "script.pth":
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), name)
    elif name == "plain.pth":
        path.write_bytes(pickle.dumps(Evil(marker)))
    elif path.suffix in (".npy", ".npz"):
        save = np.save if path.suffix == ".npy" else np.savez
        save(name, np.array([Evil(marker)], dtype=object))
    else:
        torch.save({"state_dict": Evil(marker)}, name)
    return name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["zip.pth", "plain.pth", "script.pth", "w.bin", "w.npy", "w.npz"])
def test_weights_that_are_more_than_tensors_are_refused_and_run_nothing(name, ran):
    weights = _evil_weights(name, ran)
    with refused(WeightsError, "cannot be loaded"):
        create_timm_model(VIT, weights, SMALL)
    with refused(WeightsError, "cannot be loaded"):
        load_weights(nn.Linear(2, 2), weights)
    assert not ran.exists()


def test_a_pickle_in_a_weights_folder_is_refused_and_runs_nothing(ran):
    shutil.copytree(weights_path("asset:digits-vit"), "model")
    Path("model/model.safetensors").unlink()
    _evil_weights("model/pytorch_model.bin", ran)
    with refused(WeightsError, "cannot be loaded"):
        create_timm_model(None, "model", {})
    assert not ran.exists()


def test_timm_is_told_to_read_nothing_but_tensors(monkeypatch, ran):
    told = []
    monkeypatch.setattr("timm.models.load_checkpoint", lambda *_, **options: told.append(options))
    torch.save({}, "w.pth")
    with suppress(Exception):
        create_timm_model(VIT, "w.pth", SMALL)
    assert told[0].get("weights_only") is True


@pytest.mark.parametrize(("package", "lowest"), [("torch", (2, 6)), ("timm", (1, 0, 26)), ("datasets", (4,))])
def test_versions_that_run_code_from_data_are_not_taken(package, lowest):
    (found,) = re.findall(rf'"{package}>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert tuple(map(int, found.split("."))) >= lowest


def test_nobody_is_advised_to_load_a_pickle_without_care(ran):
    with pytest.raises(WeightsError) as caught:
        create_timm_model(VIT, _evil_weights("zip.pth", ran), SMALL)
    assert "weights_only" not in str(caught.value)
    assert "safetensors" in caught.value.remedy


def _tensor(shape, end, dtype="F32"):
    return {"weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ({}, 1 << 63),
        ({}, 99_000_000),
        (_tensor([2, 2], 1 << 40), None),
        (_tensor([1 << 62, 4], 16), None),
        (_tensor([1 << 20, 1 << 20], 16), None),
        (_tensor([-2, -2], 16), None),
        (_tensor([2, 2], 16, "OBJECT"), None),
        ({**_tensor([2, 2], 16), "bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, None),
    ],
)
def test_safetensors_whose_header_lies_are_refused(header, length, ran):
    text = json.dumps(header).encode()
    Path("w.safetensors").write_bytes(struct.pack("<Q", length or len(text)) + text + bytes(16))
    with refused(WeightsError, "cannot be loaded"):
        create_timm_model(VIT, "w.safetensors", SMALL)
    with refused(WeightsError, "cannot be loaded"):
        load_weights(nn.Linear(2, 2), "w.safetensors")


# A weights folder's config.json


@pytest.fixture
def weights_folder(ran):
    """Changes the config.json of a copy of the shipped teacher: section=(key, value), or key=value."""

    def change(section=None, extra_tensor=False, **changes):
        shutil.copytree(weights_path("asset:digits-vit"), "model")
        config = json.loads(Path("model/config.json").read_text())
        (config[section] if section else config).update(changes)
        Path("model/config.json").write_text(json.dumps(config))
        if extra_tensor:
            from safetensors.torch import load_file, save_file

            tensors = load_file("model/model.safetensors")
            save_file({**tensors, "strange": torch.zeros(1)}, "model/model.safetensors")
        return "model"

    return change


def _built(weights):
    return build_backbone("vit", model=None, weights=weights, image_size=32, options={})


@pytest.mark.parametrize("name", ["hf-hub:stranger/model", "hf_hub:stranger/model", "local-dir:other"])
def test_a_weights_folder_cannot_name_another_place_as_its_architecture(name, weights_folder, asked):
    with refused():
        _built(weights_folder(architecture=name))
    assert asked == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoint_path", "other.pth"),
        ("pretrained", True),
        ("pretrained_cfg", {"url": "http://stranger/w.pth"}),
        ("pretrained_cfg_overlay", {"url": "http://stranger/w.pth"}),
        ("pretrained_filter_fn", "os.mkdir"),
        ("cache_dir", "elsewhere"),
        ("features_only", True),
        ("model_name", "hf-hub:stranger/model"),
        ("act_layer", "os.mkdir"),
        ("block_fn", "os.mkdir"),
    ],
)
def test_the_arguments_in_a_weights_folder_fetch_nothing_and_call_nothing(key, value, weights_folder, asked):
    with refused():
        _built(weights_folder("model_args", **{key: value}))
    assert asked == []
    assert not Path("elsewhere").exists()


def test_other_weights_that_a_folder_names_are_not_looked_at(weights_folder, asked):
    other = {"file": "other.pth", "url": "http://stranger/w.pth", "hf_hub_id": "stranger/model"}
    provider = _built(weights_folder("pretrained_cfg", custom_load=True, source="", **other))
    published = _built("asset:digits-vit").state_dict()
    assert all(torch.equal(tensor, published[name]) for name, tensor in provider.state_dict().items())
    assert asked == []


def test_a_weights_folder_cannot_name_another_place_in_its_pretrained_cfg(weights_folder, asked):
    weights = weights_folder("pretrained_cfg", extra_tensor=True, architecture="hf-hub:stranger/model")
    with suppress(LeapcoreError):
        _built(weights)
    assert asked == []


@pytest.mark.parametrize("name", [5, ["a"], None])
def test_an_architecture_that_is_no_name(name, weights_folder):
    with refused(WeightsError):
        architecture(Path(weights_folder(architecture=name)))


@pytest.mark.parametrize("weights", ["asset:../recipes", "asset:/", "asset:.."])
def test_an_asset_is_one_that_ships(weights):
    with refused(WeightsError, "ships no weights"):
        weights_path(weights)


# Specs: YAML, --set, --option

TAGS = [
    '!!python/object/apply:os.mkdir ["ran"]',
    '!!python/object/new:os.mkdir ["ran"]',
    "!!python/name:os.mkdir x",
    "!!python/module:evil x",
    "!stranger {a: 1}",
]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_run_nothing(tag, ran, leapcore_):
    Path("evil.yaml").write_text(SPEC.replace("depth: 2", f"depth: {tag}"))
    with suppress(LeapcoreError):
        load_spec("evil.yaml")
    with refused(SpecError, "is not YAML"):
        load_spec("spec.yaml", [f"student.options.depth={tag}"])
    assert leapcore_("backbones", VIT, "--option", f"depth={tag}")[0] == 2
    assert not ran.exists()


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_in_a_file_are_refused(tag, ran):
    Path("evil.yaml").write_text(SPEC.replace("depth: 2", f"more: {tag}"))
    with refused(SpecError, r"evil\.yaml.*tag"):
        load_spec("evil.yaml")


def test_a_spec_beside_a_students_folder_runs_nothing(ran, leapcore_):
    shutil.copytree(weights_path("asset:digits-vit"), "strangers/student")
    Path("strangers/spec.yaml").write_text(f"student: {TAGS[0]}")
    load_model("strangers/student", load_spec("spec.yaml"), None)
    assert not ran.exists()


def test_a_broken_spec_beside_a_students_folder_is_passed_over(ran, leapcore_):
    shutil.copytree(weights_path("asset:digits-vit"), "strangers/student")
    Path("strangers/spec.yaml").write_text("student: 2024-13-45")
    load_model("strangers/student", load_spec("spec.yaml"), None)


def _bomb(levels):
    lists = [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}' if i else 'lol'] * 9)}]" for i in range(levels)]
    return "{" + ", ".join(lists) + "}"


def test_aliases_that_repeat_more_than_a_spec_can_hold_are_refused(ran, leapcore_):
    Path("evil.yaml").write_text(SPEC.replace("depth: 2", f"depth: 2, more: {_bomb(9)}"))
    with refused(SpecError, r"evil\.yaml"):
        load_spec("evil.yaml")


@pytest.mark.parametrize("value", [_bomb(9), "&a [*a]", "&a {again: *a}"])
def test_aliases_on_the_command_line_that_repeat_without_end_are_refused(value, leapcore_):
    with refused(SpecError, "--set"):
        load_spec("spec.yaml", [f"student.options.more={value}"])


def test_aliases_that_repeat_a_little_are_fine(ran):
    Path("ok.yaml").write_text(SPEC.replace("depth: 2", "depth: &depth 2, mlp_ratio: *depth"))
    assert load_spec("ok.yaml").student.options["mlp_ratio"] == 2


@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5000, "!!int x", "!!float x", "[" * 1000 + "]" * 1000])
def test_values_that_cannot_be_made_are_named(value, ran, leapcore_):
    Path("evil.yaml").write_text(SPEC.replace("depth: 2", f"depth: {value}"))
    with refused(SpecError, r"evil\.yaml"):
        load_spec("evil.yaml")
    with refused(SpecError, "--set"):
        load_spec("spec.yaml", [f"student.options.depth={value}"])


# Specs: names


@pytest.fixture
def evil_module(ran, monkeypatch):
    """A module that can be imported, and should not be."""
    Path("evil.py").write_text("import os\nos.mkdir('ran')\ndef factory(*args, **options): pass\n")
    monkeypatch.syspath_prepend(ran.parent)


@pytest.mark.parametrize("separator", [":", "."])
@pytest.mark.parametrize(
    "key", ["teacher.backbone", "student.backbone", "objective.patch", "curriculum.scheduler", "data.source"]
)
def test_a_spec_cannot_name_a_module(key, separator, ran, evil_module, leapcore_):
    with refused(LeapcoreError, "unknown"):
        load_spec("spec.yaml", [f"{key}=evil{separator}factory"])
    assert not ran.exists()


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.name=evil.factory",
        "student.options.act_layer=evil.factory",
        "student.options.norm_layer=evil.factory",
        "student.options.block_fn=evil.factory",
        "student.options.pretrained_filter_fn=evil.factory",
    ],
)
def test_options_cannot_name_a_function(override, ran, evil_module, leapcore_):
    with refused():
        run(load_spec("spec.yaml", [override]), output="out")
    assert not ran.exists()
    assert not Path("out/student").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "a/../../b", "/elsewhere", "..", "'a\n/b'"])
def test_a_spec_cannot_name_an_output_folder_outside_runs(name, ran, leapcore_):
    with refused(SpecError, "name"):
        load_spec("spec.yaml", [f"name={name}"])


@pytest.mark.parametrize("weights", ["none", "pretrained"])
@pytest.mark.parametrize(
    "model", ["hf-hub:stranger/model", "HF-HUB:stranger/model", "local-dir:.", "../model"]
)
def test_a_model_is_one_that_timm_registers(model, weights, asked):
    with refused(LeapcoreError, "timm has no model"):
        build_backbone("vit", model=model, weights=weights, image_size=32, options={})
    assert asked == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pretrained_cfg_overlay", {"url": "http://stranger/w.pth", "hf_hub_id": None}),
        ("pretrained_cfg_overlay", {"hf_hub_id": "stranger/model"}),
        ("pretrained_cfg", {"url": "http://stranger/w.pth"}),
        ("pretrained_cfg_overlay", {"file": "other.safetensors"}),
        ("cache_dir", "elsewhere"),
    ],
)
def test_options_cannot_say_where_pretrained_weights_come_from(option, value, ran, asked):
    with refused(SpecError, option):
        create_timm_model(VIT, "pretrained", {**SMALL, option: value})
    assert asked == []


def test_options_of_a_plugins_model_cannot_name_a_checkpoint(ran):
    torch.save({}, "w.pth")
    with refused(SpecError, r"checkpoint_path.*weights"):
        create_timm_model(VIT, "none", {**SMALL, "checkpoint_path": "w.pth"})


# Images


def _data(source, **more):
    return DataSpec(source=source, image_size=16, workers=0, **more)


def _png(width=8, height=8):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def _huge_png():
    """Says that it has 400 million pixels, in 60 bytes."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunks = (chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture
def images(ran):
    """Four images, in train and val; a function that reads those of val."""
    for path in (f"{split}/{kind}/0.png" for split in ("train", "val") for kind in "ab"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(_png())
    data = _data("folder")

    def read():
        return [labels.tolist() for _, labels in evaluation_batches(folder(data, "", 0).val, data, 8)]

    return read


def test_a_decompression_bomb_among_the_images_is_named(images):
    assert images() == [[0, 1]]
    Path("val/a/0.png").write_bytes(_huge_png())
    with refused(DataError, r"val/a/0\.png: DecompressionBomb"):
        images()


def test_a_link_to_a_file_that_is_no_image_tells_nothing_of_it(images):
    Path("secret.txt").write_text("the password is sesame")
    Path("val/a/1.png").symlink_to(Path("secret.txt").absolute())
    with pytest.raises(DataError) as caught:
        images()
    assert "sesame" not in str(caught.value)


def test_a_folder_that_links_to_itself_is_refused(images):
    Path("val/a/again").symlink_to("..")
    with refused(DataError, "lies deeper"):
        images()


GHOSTSCRIPT = """
from leapcore.data.batches import evaluation_batches
from leapcore.data.sources import folder
from leapcore.spec import DataSpec
data = DataSpec(source="folder", image_size=16, workers=0)
list(evaluation_batches(folder(data, "", 0).val, data, 8))
"""


def test_no_program_is_started_to_decode_an_image(images, ran):
    Path("bin").mkdir()
    Path("bin/gs").write_text(f"#!/bin/sh\nmkdir '{ran}'\n")
    Path("bin/gs").chmod(0o755)
    Path("val/a/0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    )
    path = f"{Path('bin').absolute()}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([sys.executable, "-c", GHOSTSCRIPT], env={**os.environ, "PATH": path}, capture_output=True)
    assert not ran.exists()


# Shards


def _write_shard(path, members=None):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in (members or {"a.jpg": _png(), "a.cls": b"1"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def _read_shards(shards, root="shards", number=2):
    pytest.importorskip("webdataset")
    given = {} if number is None else {"train_images": number, "val_images": number}
    data = _data("wds/mine", train=shards, val=shards, root=root, **given)
    return list(from_timm(data, "mine", 0).val)


def _listed(*names, root="shards"):
    """Let a data set's own list name these shards."""
    split = {"name": "val", "num_samples": 2, "filenames": names, "shard_lengths": [1] * len(names)}
    Path(root, "_info.json").write_text(json.dumps({"splits": {"val": split}}))


def test_shards_in_their_folder_are_read(ran):
    _write_shard("shards/x-0.tar")
    _listed("x-0.tar")
    assert len(_read_shards("x-0.tar")) == len(_read_shards("val", number=None)) == 1


def test_shards_beside_a_folder_that_is_no_command_are_files(ran):
    _write_shard("shards/x-0.tar")
    _listed("pipe:mkdir ran;.tar")
    _read_shards("pipe:mkdir ran;.tar")
    _read_shards("val", number=None)
    assert not ran.exists()


@pytest.mark.parametrize("way", ["split", "root", "list"])
def test_a_shard_is_no_command(way, ran):
    command = "pipe:mkdir ran;"
    _write_shard(f"{command}/x-0.tar")
    _listed(f"{command}.tar", root=".")
    arguments = {"split": (f"{command}.tar", ""), "root": ("x-0.tar", command), "list": ("val", "", None)}
    with suppress(LeapcoreError):
        _read_shards(*arguments[way])
    assert not ran.exists()


@pytest.mark.parametrize("way", ["split", "list"])
@pytest.mark.parametrize("place", ["../elsewhere", "{here}/elsewhere"])
def test_shards_outside_their_folder_are_refused(way, place, ran):
    _write_shard("shards/x-0.tar")
    _write_shard("elsewhere/y-0.tar")
    name = f"{place.format(here=ran.parent)}/y-0.tar"
    _listed(name)
    with refused(DataError, "outside"):
        _read_shards(name) if way == "split" else _read_shards("val", number=None)


def test_nothing_is_unpacked_from_a_shard(ran):
    members = {"../../a.jpg": _png(), "../../a.cls": b"1", f"{ran.parent}/b.jpg": _png()}
    _write_shard("shards/x-0.tar", members)
    before = sorted(ran.parent.rglob("*"))
    _read_shards("x-0.tar")
    assert sorted(ran.parent.rglob("*")) == before


def test_a_link_in_a_shard_is_not_followed(ran):
    Path("secret.png").write_bytes(_png())
    _write_shard("shards/x-0.tar", {"a.cls": b"1"})
    with tarfile.open("shards/x-0.tar", "a") as shard:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(Path("secret.png").absolute())
        shard.addfile(link)
    assert _read_shards("x-0.tar") == []


def test_pickles_in_a_shard_are_not_read(ran):
    evil = pickle.dumps(Evil(ran))
    _write_shard(
        "shards/x-0.tar", {"a.jpg": _png(), "a.cls": b"1", "a.pyd": evil, "a.pickle": evil, "a.pth": evil}
    )
    assert len(_read_shards("x-0.tar")) == 1
    assert not ran.exists()


# Other data sets


@pytest.mark.parametrize("source", ["hfds/mine", "hfids/mine", "hfds/{here}/mine", "hfds/mine/mine.py"])
def test_a_data_sets_own_script_is_not_run(source, ran, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("cache"))
    Path("mine").mkdir()
    Path("mine/mine.py").write_text("import os\nos.mkdir('ran')\n")
    with refused(DataError, "cannot be opened"):
        from_timm(_data(source.format(here=ran.parent), train_images=1, val_images=1), "mine", 0)
    assert not ran.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # datasets says that it will drop this reader
def test_a_data_set_of_pickles_is_not_read(ran, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("cache"))
    Path("train-0.pkl").write_bytes(pickle.dumps(Evil(ran)))
    with refused(DataError):
        from_timm(_data("hfds/pandas", val="train"), "pandas", 0)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", ["MNIST/processed/training.pt", "MNIST/processed/test.pt"]),
        (
            "cifar10",
            [f"cifar-10-batches-py/{part}" for part in ("data_batch_1", "test_batch", "batches.meta")],
        ),
        ("imagenet", ["meta.bin", "val/n01440764/0.JPEG"]),
    ],
)
def test_a_torchvision_set_that_is_not_the_published_one_is_refused(name, files, ran):
    for file in files:
        Path("root", file).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"evil": Evil(ran)}, Path("root", file))
    with refused(DataError, "cannot be opened"):
        from_timm(
            _data(f"torch/{name}", train="val" if name == "imagenet" else "train", val="val", root="root"),
            name,
            0,
        )
    assert not ran.exists()


# Ground truth


@pytest.fixture
def truth(ran):
    """Writes a ground truth for one image, or these bytes, and reads it."""
    Path("set/jpg").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("set/jpg/a.jpg")

    def read(content=None, name="a"):
        answers = {"bbx": [0, 0, 4, 4], "easy": [0], "hard": [], "junk": []}
        usual = {"imlist": [name], "qimlist": [name], "gnd": [answers]}
        Path("set/gnd_set.pkl").write_bytes(pickle.dumps(usual, 2) if content is None else content)
        return read_ground_truth(Path("set"))

    return read


@pytest.mark.parametrize(
    "content",
    [
        *(pickle.dumps(Evil("ran"), protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
        b"(S'ran'\nios\nmkdir\n.",
        b"\x80\x02cbuiltins\neval\nU\x0eos.mkdir('ran')\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.__new\x93.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\nN}U\x08__code__K\x01s\x86b.",
        b"\x82\x01.",
        b"Pran\n.",
    ],
)
def test_ground_truth_runs_nothing(content, truth, ran):
    assert truth().images == ["a"]
    with refused(DataError, "cannot be used as ground truth"):
        truth(content)
    assert not ran.exists()
    assert truth().images == ["a"]


@pytest.mark.parametrize("name", ["../../secret", "{here}/secret"])
def test_ground_truth_cannot_name_an_image_outside_its_folder(name, truth, ran):
    Image.new("RGB", (8, 8)).save("secret.jpg")
    with refused(DataError, "lacks"):
        truth(name=name.format(here=ran.parent))


@pytest.mark.parametrize("name", [["a"], {}])
def test_names_in_the_ground_truth_that_are_no_text(name, truth):
    with refused(DataError):
        truth(name=name)


def test_a_decompression_bomb_among_the_queries_is_named(truth):
    Path("set/jpg/a.jpg").write_bytes(_huge_png())
    with refused(DataError, r"a\.jpg"):
        truth()


# Plugins


@pytest.fixture
def strangers_folder(ran):
    """The current folder holds what looks like an installed plugin, and modules named like well-known ones."""
    info = Path("evil-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[leapcore]\nevil = evil\n")
    for module in ("evil", "yaml", "torch", "timm"):
        Path(f"{module}.py").write_text(f"import os\nos.makedirs({str(ran)!r}, exist_ok=True)\n")


def test_a_plugin_that_is_not_installed_is_not_loaded(strangers_folder, ran):
    command = Path(sysconfig.get_path("scripts"), "leapcore")
    if not command.is_file():
        pytest.skip("leapcore's command is not in this environment")
    told = subprocess.run([sys.executable, command, "plugins"], capture_output=True, text=True, timeout=60)
    assert "backbones" in told.stdout
    assert "evil" not in told.stdout
    assert not ran.exists()


def test_several_processes_load_nothing_from_the_current_folder(strangers_folder, ran, monkeypatch):
    launch = pytest.importorskip("leapcore.distributed.launch").launch
    commands = []
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch",
        lambda config, program: lambda *arguments: commands.append([program, *arguments]),
    )
    with pytest.raises(SystemExit):
        launch(["plugins"], 1)
    told = subprocess.run(commands[0], capture_output=True, text=True, timeout=60)
    assert not ran.exists()
    assert "backbones" in told.stdout


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "a;b", 'x"', "a\nb", "leapcore-../x", "..", "A", ""])
def test_a_new_plugins_name_is_no_path_and_no_code(name, ran, leapcore_):
    before = sorted(ran.parent.rglob("*"))
    assert leapcore_("plugins", "new", name)[0] == 2
    assert sorted(ran.parent.rglob("*")) == before


def test_a_new_plugin_is_written_into_its_folder_alone_and_not_loaded(ran, leapcore_):
    before = set(ran.parent.rglob("*"))
    assert leapcore_("plugins", "new", "mine", "--output", "here")[0] == 0
    assert all(path.is_relative_to(ran.parent / "here") for path in set(ran.parent.rglob("*")) - before)
    assert "mine" not in leapcore_("plugins")[1]


def test_a_new_plugin_replaces_nothing(ran, leapcore_):
    Path("there").mkdir()
    Path("link").symlink_to("nowhere")
    for output in ("there", "link"):
        assert leapcore_("plugins", "new", "mine", "--output", output)[0] == 2
    assert not list(Path("there").iterdir())
    assert not Path("nowhere").exists()


# leapcore itself


def test_what_a_run_writes_holds_no_pickle(ran, leapcore_):
    run(load_spec("spec.yaml", ["checkpoint.every=1st"]), output="out")
    assert list(Path("out").rglob("state.json"))
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files if "tensorboard" not in path.parts and path.name != "latest"}
    assert kinds <= {".yaml", ".jsonl", ".json", ".safetensors", ".log", ".html", ".md"}


READERS_OF_CODE = re.compile(
    r"(eval|exec|compile|__import__|os\.(system|popen)|subprocess\..*|runpy\..*|marshal\..*|shelve\..*"
    r"|pickle\.(load|loads|Unpickler)|dill\..*|joblib\.load|torch\.hub\..*|.*\.extractall|.*read_pickle)"
)


@pytest.mark.parametrize(
    "source",
    [*ROOT.glob("leapcore/**/*.py"), *ROOT.glob("plugins/leapcore_backbones/*.py")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_leapcores_own_code_reads_no_code(source):
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        name, options = ast.unparse(call.func), {o.arg: ast.unparse(o.value) for o in call.keywords}
        if name == "subprocess.Popen":  # of a benchmark's cells: this Python and this package, no shell
            assert ast.unparse(call.args[0]).startswith("[sys.executable, '-c', COMMAND, 'run', ")
            continue
        assert not READERS_OF_CODE.fullmatch(name), name
        assert name != "torch.load" or options.get("weights_only") == "True"
        assert name != "YAML" or options.get("typ", "'rt'") in ("'rt'", "'safe'")
        assert options.get("trust_remote_code", "False") == options.get("shell", "False") == "False"
