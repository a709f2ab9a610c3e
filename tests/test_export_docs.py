"""The snippets of docs/export.md, run in their order."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs/export.md"


def test_the_page_runs(leapcore_, small_run):
    for package in ("onnxscript", "onnxruntime", "pandas", "pyarrow"):
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
            continue
        for line in code.splitlines():
            assert leapcore_(*shlex.split(line)[1:])[0] == 0, line
    assert found["cats"].shape == (2, 24)
    assert Path("digits.csv").exists()
    assert Path("compare.html").exists()
