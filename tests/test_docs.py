"""What the README says is what the software does."""

import re
from pathlib import Path

import pytest

from leapcore import load_spec
from leapcore.bench.matrix import cells
from leapcore.bench.spec import load_bench
from leapcore.recipes import recipe_text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_spec_in_the_readme_is_the_quickstart():
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert recipe_text("quickstart") in blocks


def test_the_spec_of_a_benchmark_in_the_docs_is_one(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/bench.md").read_text(), re.DOTALL)
    (tmp_path / "bench.yaml").write_text(block)
    assert len(cells(load_bench(str(tmp_path / "bench.yaml")))) == 7


@pytest.mark.parametrize("name", ["digits", "spec", "ablations"])
def test_the_transfer_benchmark_is_sound(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert all(cell.spec.name for cell in cells(load_bench(f"benchmarks/transfer/{name}.yaml")))


def test_the_python_in_the_readme_runs(monkeypatch, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    short = '["train.duration=2st", "optimizer.warmup=1st", "train.seed=1"]'
    exec(code.replace('["train.seed=1"]', short), {})
    assert (tmp_path / "runs/seed-1/summary.json").exists()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/api.md",
        "docs/architecture.md",
        "docs/bench.md",
        "docs/cache.md",
        "docs/listeners.md",
        "docs/log.md",
        "docs/method.md",
        "docs/paper.md",
        "docs/performance.md",
        "docs/plugins.md",
        "docs/report.md",
        "docs/backbones.md",
        "docs/scaling.md",
        "docs/transfer.md",
        "docs/security.md",
    ],
)
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    files = re.findall(r"`((?:leapcore|plugins|benchmarks|docs|tests)/[\w./-]+)`", text)
    for name in links:
        assert (ROOT / page).parent.joinpath(name).exists(), name
    for name in files:
        assert (ROOT / name).exists(), name


def test_the_spec_fragments_in_the_readme_are_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("data/train", "data/val"):
        Path(folder).mkdir(parents=True)
    Path("dinov2.safetensors").touch()
    fragments = re.findall(r"`((?:data|teacher): \{.*?\})`", README)
    assert len(fragments) == 2
    lines = {"data": "data: {source: digits, image_size: 28}", "teacher": "teacher: {backbone: vit}"}
    for fragment in fragments:
        whole = {**lines, fragment.split(":")[0]: fragment}.values()
        (tmp_path / "spec.yaml").write_text("\n".join(["name: x", "student: {backbone: vit}", *whole]))
        load_spec(tmp_path / "spec.yaml")
