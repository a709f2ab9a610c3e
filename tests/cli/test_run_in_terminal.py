"""``leapcore run`` from its first line to its last, and what is kept off the terminal."""

import logging
import re
import subprocess
import sys
import warnings

from leapcore.cli.noise import library_noise
from leapcore.compat import torchvision_operators

EARLY = """
import sys
from leapcore.cli import main, run
def stop(screen):
    print("heavy:", {"torch", "timm", "deepspeed"} & set(sys.modules))
    sys.exit(0)
run._import_libraries = stop
sys.argv = ["leapcore", "run", "quickstart", "--set", "train.seed=3"]
main()
"""


def test_what_is_known_is_told_before_anything_heavy_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EARLY], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    first, *_, last = done.stdout.splitlines()
    assert first == "leapcore run quickstart"
    assert "results     runs/quickstart" in done.stdout
    assert "train.seed=3" in done.stdout
    assert last == "heavy: set()"


def test_the_stages_of_loading_and_a_snippet_that_runs_as_printed(leapcore_):
    options = ["--set", "curriculum.start=calibrate", "--output", 'odd\'s "run"']
    code, out, err = leapcore_("run", "spec.yaml", *options)
    assert (code, err) == (0, "")
    stages = re.findall(r"^\d\d:\d\d:\d\d  (\w+)", out, re.MULTILINE)
    assert stages[:3] == ["importing"] * 3
    assert "opening the images of digits" in out
    for stage in ("opening", "building", "counting", "checking", "ready", "calibrating", "starts", "writing"):
        assert stage in stages
    snippet = out.partition("load the student in Python:\n")[2]
    check = "import sys; print(sum(p.numel() for p in model.parameters()), 'leapcore' in sys.modules)"
    plain, *others = snippet.splitlines()
    needed = torchvision_operators() != "compiled"
    assert plain.startswith("import timm; model = ")
    assert others[:1] == ["torchvision here does not match torch; until that is mended:"] * needed
    code = f"{others[-1] if needed else plain}\n{check}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parameters = re.search(r"\(([\d,]+) parameters\)", out)[1].replace(",", "")
    assert done.stdout == f"{parameters} {needed}\n"


def test_quiet_tells_the_closing_line_and_errors_alone(leapcore_):
    few = ["--set", "train.batch_size=8"]  # of which leapcore would warn
    code, out, err = leapcore_("run", "spec.yaml", "--quiet", *few)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"mine: finished, [\d.]+% of FLOPs saved, results in runs/mine\n", out)
    code, out, err = leapcore_("run", "spec.yaml", "--quiet")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")


def test_verbose_tells_every_figure(leapcore_):
    code, out, _ = leapcore_("run", "spec.yaml", "--verbose", "--set", "train.log_every=1")
    assert code == 0
    assert len(re.findall(r"step [12]  epoch .* patch_loss ", out)) == 2
    assert "contradict" in leapcore_("run", "spec.yaml", "-q", "-v")[2]


def test_libraries_are_heard_only_if_asked_for(capsys):
    def say_all():
        logging.getLogger("timm").warning("chatter")
        warnings.warn("old style", stacklevel=1)
        logging.getLogger("timm").error("trouble")
        logging.getLogger("leapcore.train").warning("a word of ours")

    with library_noise(shown=False), warnings.catch_warnings():
        warnings.simplefilter("always")
        say_all()
    err = capsys.readouterr().err
    assert err == "error of timm: trouble\nwarning: a word of ours\n"
    with library_noise(shown=True), warnings.catch_warnings():
        warnings.simplefilter("always")
        say_all()
    err = capsys.readouterr().err
    assert "warning of timm: chatter" in err
    assert "old style" in err
