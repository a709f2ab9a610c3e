"""A student's folder: its formats, how they are loaded, and its model card."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch import nn

from leapcore import (
    ImageInput,
    LayerFeatureProvider,
    LayerFeatures,
    LayerInfo,
    build_backbone,
    cli,
    export_student,
    import_timm,
    load_weights,
)
from leapcore.export.model_card import Snapshot, write_model_card
from leapcore.plugins.loader import installed_plugins
from leapcore.runs.reader import Run

PAGE = Path(__file__).parents[2] / "docs/export.md"


@pytest.fixture(scope="module")
def exported(small_run):
    """The student in every format by the command of docs/export.md, and what that said; to be read only."""
    pytest.importorskip("onnxscript")
    place, said = small_run.parent / "place", []
    shutil.copytree(small_run, place / "runs/mine")
    (line,) = [line for line in PAGE.read_text().splitlines() if line.startswith("leapcore export")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", shlex.split(line))
        patch.setattr("typer.echo", said.append)
        with pytest.raises(SystemExit):
            cli.main()
    return place / "student", said


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def front_matter(card):
    return YAML(typ="safe").load(card.split("---\n")[1])


def test_every_format_gives_the_same_features_and_loads_as_printed(exported, monkeypatch):
    folder, said = exported
    monkeypatch.chdir(folder.parent)
    names = {"README.md", "config.json", "model.safetensors", "student.onnx", "student.pt2"}
    assert {path.name for path in folder.iterdir()} == names
    lines = [line.removeprefix("load it: ") for line in said if line.startswith("load it: ")]
    timm_line, onnx_line, pt2_line = lines
    assert timm_line.startswith("import timm; model = ")
    names = {}
    exec(timm_line, names)
    model = names["model"].eval()
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = model((pixels - 0.5) / 0.5)
    results = {"pixels": pixels.numpy()}
    exec(onnx_line.replace('numpy.zeros((1, 3, 32, 32), "float32")', "pixels"), results)
    torch.testing.assert_close(torch.from_numpy(results["features"]), expected, rtol=1e-4, atol=1e-5)
    results = {"pixels": pixels}
    exec(pt2_line.replace("torch.zeros(1, 3, 32, 32)", "pixels"), results)
    torch.testing.assert_close(results["features"], expected, rtol=1e-4, atol=1e-5)
    for line in lines:
        exec(line, {})
    assert sum("takes pixels in [0, 1]; deviates from torch by at most" in line for line in said) == 2


def test_the_cards_snippets_run_in_its_folder(exported, monkeypatch):
    monkeypatch.chdir(exported[0])
    first, *others = python_blocks(Path("README.md").read_text())
    names = {}
    exec(first, names)
    assert names["features"].shape == (1, 24)
    assert "  # (1, 24)\n" in first
    assert len(others) == 2
    for snippet in others:
        exec(snippet, {})


def test_a_card_says_what_is_known_and_claims_no_licence(small_run, exported):
    card, summary = (
        (exported[0] / "README.md").read_text(),
        json.loads((small_run / "summary.json").read_text()),
    )
    front = front_matter(card)
    assert (front["library_name"], front["license"]) == ("timm", "unknown")
    assert "license" not in json.loads((exported[0] / "config.json").read_text())["pretrained_cfg"]
    for statement in (
        f"| kNN | {100 * summary['accuracy']['knn']:.2f} |",
        f"| FLOPs spent | {summary['flops']['spent']:.3e} |",
        "vit with the weights asset:digits-vit, 12 layers, 773,064 parameters",
        "| target layers | 1",
        "| size | 32 × 32 pixels, RGB |",
        "It was taken after step 4 of a run that is finished.",
        "torch ",
    ):
        assert statement in card, statement
    assert (small_run / "spec.yaml").read_text() in card
    at_the_end = (small_run / "student" / "README.md").read_text()
    assert at_the_end == re.sub(r"## Other formats.*(?=## Accuracy)", "", card, flags=re.DOTALL)


def test_the_folder_is_what_the_hub_expects(exported, monkeypatch):
    timm = import_timm()
    monkeypatch.setattr(
        "timm.models._hub.hf_hub_download", lambda repo_id, filename, **_: str(exported[0] / filename)
    )
    there = timm.create_model("hf-hub:somebody/student", pretrained=True)
    here = timm.create_model(f"local-dir:{exported[0]}", pretrained=True)
    for name, tensor in here.state_dict().items():
        assert torch.equal(tensor, there.state_dict()[name])
    view = timm.data.resolve_model_data_config(there)
    assert (view["input_size"], view["crop_pct"]) == ((3, 32, 32), 1.0)


def test_the_card_of_an_earlier_checkpoint_tells_of_that_moment(leapcore_, small_run):
    code, out, err = leapcore_("export", str(small_run), "--checkpoint", "step-00000002", "--output", "early")
    assert (code, err) == (0, "")
    assert "student of step-00000002 in early, described in early/README.md" in out
    card = Path("early/README.md").read_text()
    lines = [json.loads(line) for line in (small_run / "metrics.jsonl").read_text().splitlines()]
    (knn,) = [line["knn"] for line in lines if line["step"] == 2 and "knn" in line]
    (spent,) = [line["flops_spent"] for line in lines if line["step"] == 2 and "flops_spent" in line]
    assert f"| kNN | {100 * knn:.2f} |" in card
    assert f"| FLOPs spent | {spent:.3e} |" in card
    assert "It was taken after step 2, before the run's last step." in card


def test_a_run_without_checkpoints_gives_the_student_of_its_end(leapcore_, small_run):
    shutil.copytree(small_run, "run")
    assert leapcore_("export", "run", "--output", "from checkpoint")[0] == 0
    shutil.rmtree("run/checkpoints")
    code, out, _ = leapcore_("export", "run", "--format", "PT2")
    assert (code, "student of step-00000004 in run/exports/step-00000004" in out) == (0, True)
    for name in ("model.safetensors", "config.json", "README.md"):
        own, other = (
            Path(folder, name).read_bytes() for folder in ("run/exports/step-00000004", "from checkpoint")
        )
        assert (own == other) == (name != "README.md"), name  # whose card names the other format, too
    assert leapcore_("export", "run", "--checkpoint", "step-00000002")[0] == 2


def test_a_format_that_cannot_be_made_leaves_nothing(leapcore_, small_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = leapcore_("export", str(small_run), "--format", "onnx", "--output", "new")
    assert (code, "pip install 'leapcore[onnx]'" in err) == (2, True)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onx", ["there is no format 'onx'", "Did you mean 'onnx'?"]),
        ("nonsense", ["there is no format 'nonsense'", "Known: onnx, pt2, timm."]),
        ("TorchScript", ["torch has given it up", "Name pt2 instead"]),
    ],
)
def test_a_format_that_is_not_there_is_named(leapcore_, small_run, name, words):
    code, _, err = leapcore_("export", str(small_run), "--format", name, "--output", "new")
    assert code == 2
    assert err.startswith("Error: ")
    assert all(word in err for word in words), err
    assert not Path("new").exists()


class Strange(LayerFeatureProvider):
    """A network that timm does not know."""

    def __init__(self, network):
        super().__init__([LayerInfo("0", 8, 4)], ImageInput((16, 16), (0.5,) * 3, (0.25,) * 3))
        self.model = network

    @classmethod
    def build(cls, *, model, weights, image_size, options):
        network = nn.Sequential(nn.Conv2d(3, 8, options["patch"], options["patch"]))
        load_weights(network, weights)
        return cls(network)

    def iter_layers(self, images):
        yield LayerFeatures.from_nchw(self.model(images))


@pytest.fixture
def strange():
    """A backbone family of a plugin."""
    registry = installed_plugins().registries["backbones"]
    registry.owner = "test"
    registry.register("strange", Strange.build)
    yield
    registry.forget("test")


@pytest.mark.usefixtures("strange")
def test_a_plugins_student_says_what_it_needs_and_how_it_is_loaded(leapcore_, monkeypatch):
    student = "student={backbone: strange, options: {patch: 4}}"
    assert leapcore_("run", "spec.yaml", "--set", student, "--set", "data.image_size=16")[0] == 0
    card = Path("runs/mine/student/README.md").read_text()
    assert front_matter(card)["library_name"] == "leapcore"
    assert "it is of the backbone family 'strange', which a plugin of leapcore provides" in card
    (snippet,) = python_blocks(card)
    assert leapcore_("embed", "runs/mine", "digits", "-o", "x.npz", "--set", "workers=0")[0] == 0
    monkeypatch.chdir("runs/mine/student")
    names = {}
    exec(snippet, names)
    assert names["features"].shape == (1, 8)


def test_what_timm_states_of_published_weights_is_passed_on(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    spec = (tmp_path / "run" / "spec.yaml").read_text()
    published = "model: vit_small_patch14_dinov2.lvd142m\n  weights: pretrained"
    (tmp_path / "run" / "spec.yaml").write_text(
        spec.replace("model:\n  weights: asset:digits-vit", published)
    )
    run = Run(tmp_path / "run")
    write_model_card(run, run.folder / "student", Snapshot.at_end(run))
    card = (run.folder / "student" / "README.md").read_text()
    assert (
        "timm states apache-2.0 for the published weights of vit\\_small\\_patch14\\_dinov2.lvd142m." in card
    )
    assert front_matter(card)["license"] == "unknown"


def test_the_card_shows_the_shape_that_the_model_returns(small_run, tmp_path):
    student = build_backbone("timm", model="mobilenetv3_small_050", image_size=32)
    export_student(student, tmp_path / "student")
    run = Run(small_run)
    write_model_card(run, tmp_path / "student", Snapshot.at_end(run))
    (snippet,) = python_blocks((tmp_path / "student" / "README.md").read_text())
    with torch.no_grad():
        shape = tuple(student.eval().model(torch.zeros(1, 3, 32, 32)).shape)
    assert shape != (1, student.model.num_features)  # it has a layer behind those
    assert f"# {shape}\n" in snippet


def test_a_card_of_half_a_run_leaves_out_what_is_unknown(leapcore_, small_run):
    shutil.copytree(small_run, "run", ignore=shutil.ignore_patterns("summary.json", "student"))
    with open("run/metrics.jsonl", "a") as file:
        file.write('{"step": 3, "los')
    assert leapcore_("export", "run", "--checkpoint", "step-00000002", "--output", "early")[0] == 0
    card = Path("early/README.md").read_text()
    assert "It was taken after step 2, before the run's last step." in card
    assert "| FLOPs spent | " in card
    assert "Made with" not in card
    before_the_spec = card.split("## Reproduce")[0]
    for unknown in ("nan", "None ", "| – |", "|  |"):
        assert unknown not in before_the_spec.replace("None is stated", ""), unknown


def test_names_are_neither_html_nor_markdown_and_the_spec_ends_where_it_ends(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    spec = tmp_path / "run" / "spec.yaml"
    spec.write_text(spec.read_text().replace("asset:digits-vit", "'<b>*a*|b.pth' # ```"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary | {"name": "<i>_x_"}))
    (tmp_path / "run" / "start.json").unlink()  # which holds the name, too
    run = Run(tmp_path / "run")
    write_model_card(run, run.folder / "student", Snapshot.at_end(run))
    card = (run.folder / "student" / "README.md").read_text()
    assert "\n# &lt;i&gt;\\_x\\_\n" in card
    assert "vit with the weights &lt;b&gt;\\*a\\*\\|b.pth" in card
    assert f"\n````yaml\n{spec.read_text().strip()}\n````\n" in card


def test_a_card_needs_no_network(small_run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a card asks the network")

    shutil.copytree(small_run / "student", tmp_path / "student")
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    run = Run(small_run)
    write_model_card(run, tmp_path / "student", Snapshot.at_end(run))


def test_the_page_on_exports_runs(leapcore_, small_run, exported):
    for package in ("pandas", "pyarrow"):
        pytest.importorskip(package)
    for name in ("runs/mine", "runs/other"):
        shutil.copytree(small_run, name)
    for name in ("cats/1.jpg", "cats/2.jpg", "dogs/1.jpg"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((50, 40), 50).convert("RGB").save(Path("photos", name))
    found = {}
    for language, code in re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if language == "python":
            exec(code, found)
        elif code.startswith("leapcore export"):
            shutil.copytree(exported[0], "student")  # made by this line
        else:
            assert all(leapcore_(*shlex.split(line)[1:])[0] == 0 for line in code.splitlines()), code
    assert found["cats"].shape == (2, 24)
    assert Path("digits.csv").exists()
    assert Path("compare.html").exists()
