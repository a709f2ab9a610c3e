"""The first hour of a plugin author, in an environment of its own: tutorial and example, as a stranger does them."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from leapcore.testing.backbone_rules import RULES as BACKBONE_RULES
from leapcore.testing.scheduler import RULES as SCHEDULER_RULES

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs/plugins.md").read_text()
EXAMPLE = ROOT / "plugins/examples/leapcore-mixer"


@pytest.fixture
def shell(tmp_path):
    """Runs commands in a fresh environment that sees leapcore and its dependencies, but installs beside them."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)  # the parent's will do
    here = sysconfig.get_paths()["purelib"]
    site_packages = next((venv / "lib").glob("python*/site-packages"))
    # A line of a .pth file that begins with import is run; addsitedir follows editable installs, too.
    (site_packages / "parent.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    for program in ("leapcore", "pytest", "pip"):
        script = venv / "bin" / program
        script.write_text(f'#!/bin/sh\nexec "{venv}/bin/python" -m {program} "$@"\n')
        script.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{venv}/bin{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_BUILD_ISOLATION": "0",  # hatchling is there already; nothing has to be fetched
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONWARNINGS": "ignore",
        "COLUMNS": "160",
    }

    def run(commands, cwd=tmp_path):
        script = f"set -e\n{commands}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=cwd, env=environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def _steps():
    """The tutorial's blocks in order: ("sh", commands) or (file name, its content)."""
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", TUTORIAL, re.DOTALL):
        if language == "sh":
            yield "sh", block
        else:
            first, content = block.split("\n", 1)
            yield first.removeprefix("# "), content


def test_the_tutorial(shell, tmp_path):
    (_, begin), *files, (_, commands) = _steps()
    printed = shell(begin)
    assert re.search(r"my-backbone +│ leapcore-my-backbone 0.1.0 │ backbones: my-backbone", printed)
    assert "1 passed" in printed
    assert "my-backbone: finished" in printed
    package = tmp_path / "leapcore-my-backbone"
    for name, text in files:
        if name.endswith("/provider.py"):
            assert (package / name).read_text() == text, "the tutorial shows what `plugins new` writes"
        (package / name).write_text(text)
    printed = shell(commands, cwd=package)
    assert "backbones: my-backbone, repvit" in printed
    for subject in ("backbone my-backbone", "backbone repvit repvit_m0_9"):
        assert f"{subject}: 13 of 13 rules kept" in printed
    assert "scheduler staircase: 6 of 6 rules kept" in printed
    assert "now at layer 12" in printed
    assert re.search(r"^kNN accuracy: \d+\.\d+%$", printed, re.MULTILINE)
    assert "stages.3.blocks.1" in printed


def test_the_example_is_installed_tested_used_and_uninstalled(shell):
    shell(f"pip install {EXAMPLE}")
    assert "3 passed" in shell("pytest tests", cwd=EXAMPLE)
    short = "--set train.duration=2st --set evaluate.linear=never"
    assert "mixer: finished" in shell(f"leapcore run {EXAMPLE}/spec.yaml {short}")
    assert "leapcore-mixer 0.1.0" in shell("leapcore plugins")
    shell("pip uninstall --yes leapcore-mixer")
    assert "mixer" not in shell("leapcore plugins")


def test_the_tutorial_names_every_rule():
    for rule in (*BACKBONE_RULES, *SCHEDULER_RULES):
        assert f"| {rule.name} |" in TUTORIAL
