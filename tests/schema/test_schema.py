"""The JSON schemas take what ships and refuse what users get wrong; docs/spec.md is made from them."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from leapcore import LeapcoreError, load_spec
from leapcore.bench.matrix import merged
from leapcore.bench.spec import load_bench
from leapcore.plugins.loader import Plugins, installed_plugins
from leapcore.recipes import recipe_names, recipe_text
from leapcore.runs import names as run_files
from leapcore.schema.build import bench_schema, run_schema
from leapcore.schema.page import page
from leapcore.spec.file import spec_of
from leapcore.spec.text import read_text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/spec.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SMALL = """\
name: x
teacher: {backbone: vit}
student: {backbone: vit}
data: {source: digits, image_size: 32}
"""


@pytest.fixture(scope="module")
def run():
    return Draft202012Validator(run_schema(installed_plugins()))


@pytest.fixture(scope="module")
def bench():
    return Draft202012Validator(bench_schema(installed_plugins()))


def _yaml(text):
    return YAML(typ="safe").load(text)


def _faults(validator, text):
    return [fault.message for fault in validator.iter_errors(_yaml(text))]


def test_all_specs_that_ship_are_valid(run, bench):
    Draft202012Validator.check_schema(run.schema)
    Draft202012Validator.check_schema(bench.schema)
    for name in recipe_names():
        assert not _faults(run, recipe_text(name)), name
    for name in ("digits", "spec", "ablations"):
        assert not _faults(bench, (ROOT / f"benchmarks/transfer/{name}.yaml").read_text()), name
    for name in ("grids/coarser", "grids/finer", "peers/spec"):
        assert not _faults(run, (ROOT / f"benchmarks/{name}.yaml").read_text()), name


def test_a_spec_that_is_written_out_is_valid(run):
    several = "teachers={a: {backbone: vit}, b: {backbone: vit, curriculum: {scheduler: linear}}}"
    for overrides in ([], [several, "teacher=null"]):
        assert not _faults(run, load_spec("quickstart", overrides).to_yaml())


MISTAKES = {
    "misspelt section": "optimiser: {lr: 1}",
    "misspelt key": "train: {sed: 1}",
    "text for a number": "train: {seed: one}",
    "duration without unit": "train: {duration: 30}",
    "duration of nothing": "train: {duration: 0ep}",
    "minutes of training": "train: {duration: 10min}",
    "share above one": "data: {source: digits, image_size: 32, augment: {flip: 50}}",
    "no image size": "data: {source: digits}",
    "unknown source": "data: {source: digit, image_size: 32}",
    "unknown backbone": "student: {backbone: vitt}",
    "unknown loss": "objective: {patch: msee}",
    "unknown choice": "objective: {grid: largest}",
    "unknown scheduler": "curriculum: {scheduler: ckaa}",
    "misspelt option": "curriculum: {treshold: 0.9}",
    "option of another": "curriculum: {scheduler: fixed, threshold: 0.9}",
    "option missing": "curriculum: {scheduler: steps}",
    "option's key": "curriculum: {scheduler: steps, at: {first: 1}}",
    "no teacher": "teacher: null",
    "two kinds of teachers": "teachers: {a: {backbone: vit}}",
    "evaluation as a number": "evaluate: {knn: 5}",
    "checkpoints": "checkpoint: {every: sometimes}",
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_refused_by_schema_and_software_alike(run, mistake, tmp_path):
    text = "\n".join(line for line in SMALL.splitlines() if line.split(":")[0] != mistake.split(":")[0])
    assert not _faults(run, SMALL)
    path = tmp_path / "spec.yaml"
    path.write_text(f"{text}\n{mistake}\n")
    assert _faults(run, path.read_text())
    with pytest.raises(LeapcoreError):
        load_spec(path)


@pytest.mark.parametrize(
    "mistake",
    [
        "methods: {}",
        "methods: {leap: {train: {sed: 1}}}",
        "methods: {leap: {curriculum: {scheduler: linear, threshold: 1}}}",
        "methods: {a.b: {}}",
        "shared: {objective: {grid: largest}}",
        "exceptions: [{where: {methods: leap}}]",
        "exceptions: [{where: {method: leap}, set: {training: {}}}]",
        "seeds: [-1]",
        "base: [quickstart]",
    ],
)
def test_mistakes_in_a_benchmark_are_refused(bench, mistake):
    small = {"name": "x", "teachers": {"a": {"backbone": "vit"}}, "students": {"a": {"backbone": "vit"}}}
    assert not list(bench.iter_errors({**small, "methods": {"leap": {"curriculum": {"ema": 1.0}}}}))
    assert list(bench.iter_errors({"methods": {"leap": {}}, **small, **_yaml(mistake)}))


def paced(num_layers, *, pace: float = 2.0):
    """Somebody's scheduler.

    Args:
        num_layers: How many layers the teacher has.
        pace: Layers per epoch,
            roughly; ``inf`` hurries.
    """


def test_schedulers_of_plugins_are_described_and_broken_ones_do_no_harm():
    plugins = Plugins([])
    plugins.registries["schedulers"].register("paced", paced)
    plugins.registries["schedulers"].register("broken", "nowhere.at:all")
    schema = run_schema(plugins)
    option = schema["$defs"]["curriculum.paced"]["properties"]["pace"]
    assert option == {
        "default": 2.0,
        "description": "Layers per epoch, roughly; `inf` hurries.",
        "type": "number",
    }
    assert {"paced", "broken"} <= set(schema["$defs"]["CurriculumSpec"]["properties"]["scheduler"]["enum"])
    assert "curriculum.broken" not in schema["$defs"]
    assert "### Scheduler paced\n\nSomebody's scheduler." in page(plugins)


def test_every_key_is_described(run, bench):
    defs = {**bench.schema["$defs"], **run.schema["$defs"]}
    del defs["run"]
    for name, section in defs.items():
        assert section["description"], name
        for key, schema in section["properties"].items():
            told = {"description", "const", "$ref"} & schema.keys()  # a section tells of itself
            assert told, f"{name}.{key}"
        title = name.removesuffix("Spec").capitalize()
        assert f"# {title.replace('Curriculum.', 'Scheduler ')}\n" in PAGE, name


def test_the_page_tells_of_every_file_that_a_run_writes():
    assert all(f"`{name}" in PAGE for name in (*run_files.FILES, *run_files.FOLDERS))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split(":")[0])
def test_the_examples_are_valid(example, run, bench, tmp_path):
    path = tmp_path / "spec.yaml"
    if "methods:" in example:
        path.write_text(example)
        assert load_bench(str(path)).methods.keys() == {"fixed", "leap"}
        assert not _faults(bench, example)
        return
    path.write_text(SMALL)
    text, shown = read_text(str(path)), _yaml(example)
    assert len(shown) <= 3
    if "teachers" in shown:
        del text.keys["teacher"]
    whole = merged(text.keys, shown)
    text.keys.update(whole)
    assert spec_of(text, files=False).name == "x"
    assert not list(run.iter_errors(whole))


def test_commands_write_the_schema_and_a_copy_names_it(leapcore_, run):
    assert leapcore_("schema", "--bench")[0] == 0
    assert leapcore_("schema", "--bench", "--markdown")[0] == 2
    assert leapcore_("schema", "-o", "nowhere/x.json")[0] == 2
    assert leapcore_("recipes", "copy", "quickstart", "own.yaml")[0] == 0
    line = Path("own.yaml").read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", line)[1]
    assert json.loads(Path(named).read_text()) == run.schema
    assert leapcore_("schema", "-o", "again.json")[0] == 0
    assert Path("again.json").read_text() == Path(named).read_text()
