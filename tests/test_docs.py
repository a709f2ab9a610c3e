"""What the README and the docs say is what the software does.

Every block of shell or Python is run by a test, or says above itself why not: ``<!-- not run: … -->``. Whatever
looks like a command, run or not, is one that exists, and every YAML is a spec.
"""

import re
import shlex
from pathlib import Path

import pytest
from conftest import SPEC
from ruamel.yaml import YAML
from typer.main import get_command

from leapcore import load_spec
from leapcore.bench.matrix import cells
from leapcore.bench.spec import load_bench
from leapcore.cli import app
from leapcore.recipes import recipe_text

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
WRONG_NOW = {"docs/log.md", "docs/troubleshooting.md"}  # commands of their time; commands with mistakes
RUN_ELSEWHERE = {  # by these tests
    "docs/api.md": "tests/test_api.py",
    "docs/export.md": "tests/export/test_export.py",
    "docs/listeners.md": "tests/listeners/test_listeners.py",
    "docs/own.md": "tests/test_own.py",
    "docs/plugins.md": "tests/test_plugin_author.py",
}
SHORT = ["train.duration=2st", "optimizer.warmup=1st", "evaluate={knn: end, linear: never}"]
BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def text_of(page):
    return (ROOT / page).read_text()


def blocks(page, *languages, marked=False):
    """The content of a page's code blocks in these languages, those left out that are not run."""
    found = BLOCK.findall(text_of(page))
    return [content for mark, language, content in found if language in languages and (marked or not mark)]


# Shell and Python


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_blocks_of_a_page_run_in_order(page, leapcore_, tmp_path):
    for block in BLOCK.findall(text_of(page)):
        mark, language, content = block
        if mark or language not in ("sh", "python"):
            continue
        if language == "python":
            exec(content.replace('["train.seed=1"]', f'["train.seed=1", *{SHORT}]'), {})
            continue
        for line in content.splitlines():
            program, *words = shlex.split(line)
            assert program == "leapcore"
            short = [f"--set={setting}" for setting in SHORT] if words[0] == "run" else []
            code, _, err = leapcore_(*words, *short)
            assert (code, "Error" in err) == (0, False), line


@pytest.mark.parametrize("page", sorted({*PAGES} - {"README.md", "docs/index.md"} - RUN_ELSEWHERE.keys()))
def test_what_no_test_runs_says_so(page):
    assert blocks(page, "sh", "bash", "python", "console") == []


@pytest.mark.parametrize("page", sorted({*PAGES} - WRONG_NOW))
def test_every_command_exists(page):
    for command in _commands(page):
        program, *words = command.split()
        check = {"leapcore": _check_leapcore, "make": _check_make, "python": _check_script}[program]
        check(command, words)


def _commands(page):
    """Lines of code and inline code that call leapcore, make or a script."""
    text = text_of(page).replace("\\\n", " ").replace("\\|", "|")
    code = re.findall(
        r"^(?:    |\$ )?(?:[A-Z_]+=\S+ )*((?:leapcore|make|python) [^#\n]+)", text, re.MULTILINE
    )
    inline = re.findall(r"`((?:leapcore|make|python) [^`]+)`", text)
    fenced = "\n".join(content for _, _, content in BLOCK.findall(text))
    lines = [line for line in code if f"    {line}" in text or line in fenced]  # no prose that begins a line
    return [command for command in [*lines, *inline] if "…" not in command.split()[1]]


def _check_leapcore(command, words):
    node = get_command(app)
    while words and words[0].strip("[]").split("|")[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0).strip("[]").split("|")[0]]
    alone = not words or words[0].startswith("-") or words == ["COMMAND", "--help"]
    assert alone or not hasattr(node, "commands"), command
    forms = (form for parameter in node.params for form in (*parameter.opts, *parameter.secondary_opts))
    known = {*forms, "--help"}
    assert set(re.findall(r"(?<!\w)--[a-z][\w-]*", " ".join(words))) <= known, command


def _check_make(command, words):
    assert re.search(rf"^{words[0]}:", text_of("Makefile"), re.MULTILINE), command


def _check_script(command, words):
    if words[0] in ("-m", "-c"):
        return
    source = text_of(words[0])
    for option in re.findall(r"--[a-z][\w-]*", command):
        assert f'"{option}"' in source, command


# YAML


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_is_a_spec(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fragments = re.findall(
        r"`((?:data|teacher|teachers|student|curriculum|objective|cache): \{.*?\})`", text_of(page)
    )
    for block in [*blocks(page, "yaml"), *(f for f in fragments if "…" not in f)]:
        found = YAML(typ="safe").load(block)
        if "students" in found:
            Path("bench.yaml").write_text(block)
            assert cells(load_bench("bench.yaml"))
        else:
            _load_over_a_sound_spec(found)


def _load_over_a_sound_spec(sections):
    spec = YAML(typ="safe").load(SPEC)
    if "teachers" in sections:
        spec.pop("teacher")
    for key, value in sections.items():
        both = isinstance(value, dict) and key not in ("teacher", "student", "curriculum")
        spec[key] = {**spec.get(key, {}), **value} if both else value
    for backbone in (spec.get("teacher", {}), spec["student"]):
        if backbone.get("weights", "").endswith(".safetensors"):
            Path(backbone["weights"]).touch()
    Path(spec["data"].get("root", ".")).mkdir(parents=True, exist_ok=True)
    if spec["data"]["source"] == "folder":
        for split in ("train", "val"):
            Path(spec["data"][split]).mkdir(parents=True, exist_ok=True)
            Path(spec["data"][split], "0.png").touch()
    YAML().dump(spec, Path("spec.yaml"))
    load_spec("spec.yaml")


def test_the_spec_in_the_readme_is_the_quickstart():
    assert recipe_text("quickstart") in blocks("README.md", "yaml")


def test_the_spec_of_a_benchmark_in_the_docs_has_its_cells(tmp_path):
    (block,) = blocks("docs/bench.md", "yaml")
    (tmp_path / "bench.yaml").write_text(block)
    assert len(cells(load_bench(str(tmp_path / "bench.yaml")))) == 7


@pytest.mark.parametrize("name", ["digits", "spec", "ablations"])
def test_the_transfer_benchmark_is_sound(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("leapcore.spec.file.data_root", lambda source, root: None)  # its images lie elsewhere
    assert all(cell.spec.name for cell in cells(load_bench(f"benchmarks/transfer/{name}.yaml")))


# Links and pages


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page):
    text = text_of(page)
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    files = re.findall(r"`((?:leapcore|plugins|benchmarks|docs|examples|tests)/[\w./-]+)`", text)
    for name in links:
        assert (ROOT / page).parent.joinpath(name).exists(), name
    for name in files:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", ["cli.md", "spec.md", "troubleshooting.md"])
def test_the_pages_made_from_the_code_are_current(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    from generate import PAGES

    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run: make pages"


def test_every_page_is_on_the_site():
    nav = YAML(typ="safe").load(text_of("mkdocs.yml").partition("\nnav:")[2])
    entries = [entry for part in nav for entry in part.values()]
    flat = [page for entry in entries for page in (entry if isinstance(entry, list) else [entry])]
    named = {page if isinstance(page, str) else next(iter(page.values())) for page in flat}
    assert {f"docs/{page}" for page in named} == {page for page in PAGES if page.startswith("docs/")}
