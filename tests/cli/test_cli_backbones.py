"""``leapcore backbones`` and ``leapcore plugins`` as a user meets them."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import leapcore.plugins.loader


@pytest.fixture
def with_plugin(monkeypatch, tmp_path):
    """Makes a module an installed plugin, beside leapcore's own."""
    found = leapcore.plugins.loader.entry_points(group="leapcore")

    def install(source, *, requires=()):
        (tmp_path / "strange_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "strange_plugin", raising=False)
        point = EntryPoint("strange", "strange_plugin", "leapcore")
        vars(point)["dist"] = SimpleNamespace(name="leapcore-strange", version="2.0", requires=list(requires))
        monkeypatch.setattr(leapcore.plugins.loader, "entry_points", lambda group: [*found, point])
        leapcore.plugins.loader.installed_plugins.cache_clear()

    yield install
    leapcore.plugins.loader.installed_plugins.cache_clear()


def test_families_are_listed_with_their_plugin(leapcore_):
    code, out, _ = leapcore_("backbones")
    assert code == 0
    for family in ("vit", "hierarchical", "convnext", "hybrid", "timm"):
        assert re.search(rf"│ {family} +│ +\d*.*│ backbones \(leapcore ", out)


def test_the_models_of_a_family(leapcore_):
    code, out, _ = leapcore_("backbones", "--family", "hybrid")
    assert code == 0
    assert {"coatnet_0_rw_224", "fastvit_t8", "vit_base_r50_s16_224"} <= set(out.split())
    assert "resnet50" not in out.split()


def test_models_are_found_by_a_part_of_their_names(leapcore_):
    code, out, _ = leapcore_("backbones", "dinov2")
    assert (code, "vit_giant_patch14_dinov2" in out.split()) == (0, True)
    assert all("dinov2" in name for name in out.split())


def test_the_layers_of_a_model_with_their_cost(leapcore_):
    code, out, _ = leapcore_("backbones", "convnext_tiny")
    assert code == 0
    assert "convnext_tiny, family convnext, 224 x 224 pixels, 27,820,128 parameters" in out
    last = next(line for line in out.splitlines() if "stages.3.blocks.2" in line)
    assert re.split(" {2,}", last.strip()) == [
        "18", "stages.3.blocks.2", "768", "32", "7 x 7", "0", "4.4698", "100.0%",
    ]  # fmt: skip
    assert max(map(len, map(str.rstrip, out.splitlines()[1:]))) <= 80


def test_a_small_model_at_another_size(leapcore_):
    options = ["--option", "depth=2", "--option", "embed_dim=24", "--option", "num_heads=3"]
    code, out, _ = leapcore_("backbones", "vit_tiny_patch16_224", "--image-size", "64", *options)
    assert code == 0
    assert "64 x 64 pixels" in out
    assert "4 x 4" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convnext_tinny"], "timm has no model 'convnext_tinny'.*Did you mean convnext_tiny"),
        (["resnet18", "--family", "vit"], "resnet18 is a ResNet.*'vit' does not take.*leapcore backbones"),
        (["resnet18", "--family", "vti"], "unknown backbone 'vti'.*Did you mean 'vit'"),
        (["resnet18", "--option", "depth"], "--option depth: not of the form key=value"),
        (["resnet18", "--option", "x=[1"], "the value is not YAML.*Quote it"),
        (["efficientformer_l1", "--image-size", "64"], "cannot run on images of 64 x 64 pixels.*made for"),
    ],
)
def test_mistakes_end_with_cause_and_remedy(leapcore_, arguments, message):
    code, _, err = leapcore_("backbones", *arguments)
    assert code == 2
    assert re.search(message, err, re.DOTALL)
    assert "Traceback" not in err


BACKBONE = """
import torch
from leapcore import ImageInput, LayerFeatureProvider, LayerFeatures, LayerInfo, hookimpl, load_weights

class Provider(LayerFeatureProvider):
    def __init__(self, layers):
        super().__init__(layers, ImageInput((32, 32), (0.5,) * 3, (0.5,) * 3))
        self.model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 16, 2, 2))

    def iter_layers(self, images):
        for block in self.model:
            images = block(images)
            yield LayerFeatures.from_nchw(images)

GOOD = [LayerInfo("0", 8, 4), LayerInfo("1", 16, 8)]

def build(*, model, weights, image_size, options):
    provider = {build}
    if isinstance(provider, Provider):
        load_weights(provider.model, weights)
    return provider

@hookimpl
def leapcore_register_backbones(registry):
    registry.register("strange", build)
"""


def _backbone(build):
    return BACKBONE.replace("{build}", build)


@pytest.mark.parametrize(
    ("source", "requires", "message"),
    [
        (
            "from leapcore import hookimpl\n@hookimpl\ndef leapcore_register_backbone(registry): ...",
            (),
            r"has a hook 'leapcore_register_backbone', which leapcore does not know\. "
            "Did you mean 'leapcore_register_backbones'",
        ),
        (
            "from leapcore import hookimpl\n@hookimpl\ndef leapcore_register_backbones(registy): ...",
            (),
            r"asks for an argument 'registy', which that hook does not hand out\. It hands out: registry",
        ),
        (
            "def leapcore_register_backbones(registry): ...",
            (),
            r"'leapcore_register_backbones' is not marked as one\. Put @leapcore.hookimpl above it",
        ),
        (
            _backbone("Provider(GOOD)"),
            ["leapcore<0.1"],
            r"made for leapcore <0.1, and this is leapcore 0.1.0\. Update leapcore-strange, or install 'leapcore<0.1'",
        ),
        (_backbone("Provider(GOOD)").replace('"strange", build', '"vit", build'), (), "registers the backbone 'vit'"),
        ("import nonesuch_library", (), r"No module named 'nonesuch_library'\. Mend, update or uninstall leapcore-strange 2.0"),
    ],
)  # fmt: skip
def test_a_broken_plugin_says_what_to_change(leapcore_, with_plugin, monkeypatch, source, requires, message):
    monkeypatch.setenv("COLUMNS", "2000")
    with_plugin(source, requires=requires)
    code, out, _ = leapcore_("plugins")
    row = next(line for line in out.splitlines() if "leapcore-strange 2.0" in line)
    assert code == 0
    assert re.search(message, row)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ('"a provider"', "its factory returns a str\nReturn a LayerFeatureProvider"),
        (
            "Provider(GOOD[::-1])",
            r"layer 1 \('1'\) of Provider yields features of width 8, but its LayerInfo says 16\nCorrect.*out of order",
        ),
        ("Provider(GOOD[:1])", "has 1 layers but yields 2\nYield one LayerFeatures after each block"),
    ],
)
def test_a_backbone_that_breaks_its_word_is_refused_by_its_plugins_name(
    leapcore_, with_plugin, build, message
):
    with_plugin(_backbone(build))
    for command in (
        ("run", "spec.yaml", "--set", "student={backbone: strange}"),
        ("backbones", "mine", "--family", "strange", "--image-size", "32"),
    ):
        code, _, err = leapcore_(*command)
        assert code == 2
        assert re.search(
            f"the backbone 'strange'.* of plugin strange .leapcore-strange 2.0.: .*{message}", err
        )


def test_a_factory_with_other_arguments_is_refused(leapcore_, with_plugin):
    with_plugin(_backbone("Provider(GOOD)").replace("image_size, options)", "size)"))
    code, _, err = leapcore_("backbones", "mine", "--family", "strange")
    assert code == 2
    assert "its factory cannot be called with model, weights, image_size, options: missing a required" in err
    assert "Write it as build(*, model, weights, image_size, options)" in err


def test_check_names_rules_and_remedies_and_fails(leapcore_, with_plugin):
    with_plugin(_backbone("Provider([LayerInfo('0', 8, 4), LayerInfo('1', 16, 4)])"))
    code, out, _ = leapcore_("plugins", "check", "strange", "--image-size", "32")
    assert code == 2
    assert "backbone strange: 12 of 13 rules kept" in out
    assert "grids: layer 2 ('1') says stride 4, but 32 pixels became 4 cells" in out
    assert "stride is the number of input pixels per cell" in out


def test_check_passes_where_all_is_well(leapcore_, with_plugin):
    with_plugin(_backbone("Provider(GOOD)"))
    code, out, _ = leapcore_("plugins", "check", "strange", "--image-size", "32")
    assert (code, "13 of 13 rules kept" in out) == (0, True)
    code, _, err = leapcore_("plugins", "check", "strang")
    assert code == 2
    assert "there is no plugin 'strang'" in err
    assert "Did you mean 'strange'?" in err


def test_a_listener_that_fails_is_named(leapcore_, with_plugin):
    with_plugin(
        "from leapcore import hookimpl\n@hookimpl\ndef leapcore_target_changed(event): event.nonesuch",
    )
    code, _, err = leapcore_("run", "spec.yaml")
    assert code == 2
    assert (
        "plugin strange (leapcore-strange 2.0) failed in its hook 'leapcore_target_changed': AttributeError"
        in err
    )
    assert "Mend, update or uninstall it" in err


@pytest.mark.parametrize("name", ["My_Backbone", "1st", "a b", "../x"])
def test_names_that_no_package_can_have(leapcore_, name):
    code, _, err = leapcore_("plugins", "new", name)
    assert code == 2
    assert "cannot be a package's name" in err


def test_an_existing_folder_is_not_written_over(leapcore_, tmp_path):
    (tmp_path / "leapcore-mine").mkdir()
    code, _, err = leapcore_("plugins", "new", "mine")
    assert code == 2
    assert "'leapcore-mine' exists already" in err
    assert not list((tmp_path / "leapcore-mine").iterdir())


def test_a_misspelt_option_of_a_plugins_model_is_named(leapcore_, with_plugin):
    with_plugin(_backbone("Provider(GOOD, **options)"))
    code, _, err = leapcore_("run", "spec.yaml", "--set", "student={backbone: strange, options: {widht: 3}}")
    assert code == 2
    assert "cannot be built with the options {'widht': 3}: TypeError" in err
    assert "unexpected keyword argument 'widht'" in err


@pytest.mark.parametrize(
    ("registered", "message"),
    [
        ('"no_such_module:build"', "cannot be imported: ModuleNotFoundError"),
        ('"strange_plugin:biuld"', "cannot be imported: AttributeError"),
        ("5", "registers 5 as backbone 'strange'"),
        ('"strange_plugin"', "registers 'strange_plugin' as backbone 'strange'"),
    ],
)
def test_a_name_without_a_working_factory_is_shown(leapcore_, with_plugin, monkeypatch, registered, message):
    monkeypatch.setenv("COLUMNS", "2000")
    with_plugin(_backbone("Provider(GOOD)").replace('"strange", build', f'"strange", {registered}'))
    code, out, _ = leapcore_("plugins")
    assert code == 0
    assert message in next(line for line in out.splitlines() if "leapcore-strange 2.0" in line)


def test_a_plugin_that_exits_at_import_takes_nobody_along(leapcore_, with_plugin):
    with_plugin("import sys; sys.exit(3)")
    code, out, _ = leapcore_("plugins")
    assert code == 0
    assert "SystemExit: 3" in out


def test_a_family_that_cannot_list_its_models_harms_no_other(leapcore_, with_plugin):
    with_plugin(
        _backbone("Provider(GOOD)") + "\ndef models(): raise OSError('no list')\nbuild.models = models\n"
    )
    code, out, _ = leapcore_("backbones")
    assert code == 0
    assert "strange" in out


@pytest.mark.parametrize("option", ["num_classes: 10", "in_chans: 1", "patch_drop_rate: 0.5"])
def test_options_that_make_something_else_are_refused(leapcore_, option):
    student = f"student={{backbone: vit, model: vit_tiny_patch16_224, options: {{{option}}}}}"
    code, _, err = leapcore_("run", "spec.yaml", "--set", student)
    assert code == 2
    assert f"options.{option.split(':')[0]} cannot be used" in err


def test_a_new_plugin_needs_a_name_of_its_own(leapcore_):
    code, _, err = leapcore_("plugins", "new", "vit")
    assert code == 2
    assert "there is a backbone 'vit' already" in err


REGISTERS = """
import torch
from leapcore import DifficultyScheduler, hookimpl

class Wild(DifficultyScheduler):
    def step(self, score):
        self.target = 99
        return True

@hookimpl
def leapcore_register_losses(registry):
    registry.register("one", lambda projected: projected.mean())
    registry.register("many", lambda projected, target: projected - target)

@hookimpl
def leapcore_register_schedulers(registry):
    registry.register("wild", Wild)

@hookimpl
def leapcore_register_datasets(registry):
    registry.register("pair", lambda data, name, seed: ([], []))
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.patch=one", r"the loss 'one' of plugin strange .* fails with TypeError.*\nWrite it as"),
        ("objective.patch=many", r"the loss 'many' of plugin strange .* returns \(1, 2, 3\) for two tensors"),
        (
            "data.source=pair",
            r"the data source 'pair' of plugin strange .* returns a tuple\nReturn ImageSplits",
        ),
        ("curriculum={scheduler: wild}", r"Wild chose 99, not the 0-based index of one of 12 layers\nMend"),
    ],
)
def test_what_a_plugin_registers_is_checked_in_a_run(leapcore_, with_plugin, override, message):
    with_plugin(REGISTERS)
    code, _, err = leapcore_("run", "spec.yaml", "--set", override)
    assert code == 2
    assert re.search(message, err)
    assert "Traceback" not in err


def test_a_package_that_cannot_be_written_leaves_nothing(leapcore_, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = leapcore_("plugins", "new", "mine")
    assert code == 2
    assert "'leapcore-mine' cannot be written: [Errno 28] No space left on device" in err
    assert not (tmp_path / "leapcore-mine").exists()
