"""A doctor that finds what is broken, says how to mend it, and is not taken down by it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from email.message import Message
from importlib.metadata import EntryPoint, PackageNotFoundError
from types import SimpleNamespace

import pytest

from leapcore.doctor import devices, disks, packages
from leapcore.doctor.checks import CHECKS
from leapcore.doctor.runner import Check, Finding, run_check, run_checks, worst

GIB = 2**30


def sound():
    yield Finding("ok", "sound")


def doubtful():
    yield Finding("warning", "doubtful", "Look.")


def raises():
    yield Finding("ok", "half")
    raise ImportError("libfoo.so:\n  cannot open")


def exits():
    raise SystemExit(3)


def aborts():
    os.abort()


def sleeps():
    time.sleep(60)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_check_that_raises_is_a_finding_and_the_next_one_is_made(isolated):
    checks = [Check(run.__name__, run, "Mend it.", isolated=isolated) for run in (raises, exits, sound)]
    findings = dict(run_checks(checks))
    (raised,), (exited,) = findings["raises"], findings["exits"]
    assert re.fullmatch(r"ImportError: libfoo.so: cannot open \(test_doctor.py:\d+\)", raised.message)
    assert (raised.state, exited.state) == ("problem", "problem")
    assert (raised.remedy, exited.remedy) == ("Mend it.", "Mend it.")
    assert findings["sound"] == [Finding("ok", "sound")]


def test_an_isolated_check_that_ends_python_is_a_finding_and_the_next_one_is_made():
    findings = dict(
        run_checks([Check(run.__name__, run, "Mend it.", isolated=True) for run in (aborts, sound)])
    )
    assert findings["aborts"] == [
        Finding("problem", "the process of this check was ended: SIGABRT", "Mend it.")
    ]
    assert findings["sound"] == [Finding("ok", "sound")]


def test_an_isolated_check_that_hangs_is_given_up_and_those_that_need_it_are_not_made():
    slow, after = (
        Check("slow", sleeps, "Wait.", isolated=True),
        Check("after", aborts, "Mend it.", needs="slow"),
    )
    findings = dict(run_checks([slow, after], timeout=1))
    assert findings["slow"] == [Finding("problem", "no answer within 1 s", "Wait.")]
    assert findings["after"] == [Finding("warning", "not checked, since slow is broken", "Mend slow first.")]


def test_a_disk_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os, time\nos.statvfs = lambda path: time.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    disk = next(check for check in CHECKS if check.name == "disk")
    findings = dict(run_checks([disk, Check("next", sound, "Mend it.")], timeout=2))
    assert findings["disk"] == [Finding("problem", "no answer within 2 s", disk.remedy)]
    assert findings["next"] == [Finding("ok", "sound")]


@pytest.mark.parametrize(
    ("run", "code", "last"),
    [
        (sound, 0, "all is well"),
        (doubtful, 0, "leapcore can run here; 1 warning"),
        (raises, 1, "1 to mend before a run can work, 0 to look at"),
    ],
)
def test_exit_codes(leapcore_, monkeypatch, run, code, last):
    monkeypatch.setattr("leapcore.doctor.checks.CHECKS", (Check("this", run, "Mend it."),))
    ended, out, _ = leapcore_("doctor")
    lines = out.splitlines()
    assert (ended, lines[-1], lines[0].startswith("leapcore ")) == (code, last, True)
    assert re.search(r"^(ok|warning|problem) +this +\S+", out, re.MULTILINE)
    ended, out, _ = leapcore_("doctor", "--json")
    report = json.loads(out)
    assert (ended, report["state"]) == (
        code,
        {0: "ok", 1: "problem"}[code] if run is not doubtful else "warning",
    )
    assert report["findings"][0].keys() == {"check", "state", "said", "remedy"}


def test_a_torch_that_aborts_does_not_take_the_command_down(tmp_path):
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "leapcore", "doctor", "--json"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    findings = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert (done.returncode, list(findings)) == (1, [check.name for check in CHECKS])
    assert "SIGABRT" in findings["torch"]["said"]
    assert "force-reinstall torch" in findings["torch"]["remedy"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_where_the_tests_run_nothing_is_broken(check):
    findings = run_check(check)
    assert worst(findings) != "problem", findings
    assert all(finding.message for finding in findings)
    assert all(finding.remedy for finding in findings if finding.state != "ok")


@pytest.fixture
def needed(monkeypatch):
    """Sets what leapcore asks for, and what is installed."""

    def set_(requirements, installed, python=">=3.10"):
        about = Message()
        about["Requires-Python"] = python
        about["Provides-Extra"] = "onnx"

        def version(name):
            if name not in installed:
                raise PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(packages, "requires", lambda name: requirements)
        monkeypatch.setattr(packages, "metadata", lambda name: about)
        monkeypatch.setattr(packages, "version", version)

    return set_


def test_packages_that_are_old_or_missing(needed):
    requirements = ["torch>=2.6", "timm>=1.0.26", "fvcore>=0.1", "onnx>=1.19; extra == 'onnx'"]
    needed(requirements, {"torch": "2.13.0+cpu", "timm": "0.9.2", "onnx": "1.2"}, python=">=4")
    old, missing, python, summary = packages.versions()
    assert (old.state, old.remedy) == ("problem", "pip install --upgrade 'timm>=1.0.26'")
    assert "timm 0.9.2" in old.message
    assert missing.message == "fvcore is not installed"
    assert python.message == "leapcore needs Python >=4"
    assert summary.message.endswith("1 of 3 needed packages are there and new enough")
    extra, summary = packages.extras()
    assert (extra.state, "onnx 1.2 is too old" in extra.message) == ("warning", True)
    assert summary.message == "installed: onnx; not installed: parquet"


def test_a_library_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    (finding,) = packages.libraries()
    assert (finding.state, finding.remedy) == (
        "problem",
        "Install it again: pip install --force-reinstall scikit-learn",
    )


@pytest.fixture
def gpu_there(monkeypatch):
    """A GPU that torch cannot use."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "glob", lambda pattern: ["/dev/nvidia0"])
    return monkeypatch


def test_a_gpu_that_a_torch_for_cpus_leaves_unused(gpu_there):
    gpu_there.setattr("torch.version.cuda", None)
    gpu_there.setattr("torch.version.hip", None)
    (finding,) = devices.accelerator()
    assert (finding.state, "built for CPUs alone" in finding.message) == ("warning", True)
    assert "pytorch.org" in finding.remedy
    gpu_there.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [finding.state for finding in devices.accelerator()] == ["ok"]


def test_a_driver_that_is_too_old_for_torch(gpu_there, tmp_path):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it.")

    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed\n")
    gpu_there.setattr("torch.version.cuda", "13.0")
    gpu_there.setattr("torch.cuda.init", init)
    gpu_there.setattr(devices, "_DRIVER", driver)
    (finding,) = devices.accelerator()
    assert finding.state == "problem"
    assert "(for CUDA 13.0) cannot use with driver 470.82.01: The NVIDIA driver on your" in finding.message
    gpu_there.setattr(devices, "glob", lambda pattern: [])
    assert [finding.state for finding in devices.accelerator()] == ["warning"], "no GPU for this container"


def test_gpus_that_torch_can_use(monkeypatch):
    import torch

    room = {0: (70, 80), 1: (3, 80)}
    fake = SimpleNamespace(
        device=lambda kind, index: torch.device("cpu" if index < 2 else "meta"),
        ones=torch.ones,
        cuda=SimpleNamespace(
            get_device_name=lambda index: "H100",
            mem_get_info=lambda index: tuple(part * GIB for part in room[index]),
        ),
    )
    free, used, broken = (devices._gpu(fake, index) for index in range(3))
    assert (free.state, "cuda:0 H100, 70.0 of 80.0 GiB free" in free.message) == ("ok", True)
    assert (used.state, "nvidia-smi" in used.remedy) == ("warning", True)
    assert (broken.state, "cuda:2 H100 does not compute" in broken.message) == ("problem", True)


def test_a_torchvision_for_another_torch(monkeypatch):
    monkeypatch.setattr("leapcore.compat.torchvision_operators", lambda: "declared")
    for cuda, state in (("12.8", "warning"), (None, "ok")):
        monkeypatch.setattr("torch.version.cuda", cuda)
        assert [finding.state for finding in devices.torchvision_itself()] == [state]


def test_a_deepspeed_that_cannot_be_imported(monkeypatch):
    def fail():
        raise ImportError("cannot import name 'x' from 'torch'")

    monkeypatch.setattr("leapcore.compat.import_deepspeed", fail)
    (check,) = (check for check in CHECKS if check.name == "deepspeed")
    (finding,) = run_check(check)
    assert (finding.state, finding.remedy) == (
        "problem",
        "Install it again: pip install --force-reinstall deepspeed",
    )


@pytest.mark.parametrize(
    ("count", "cores", "state", "remedy"),
    [
        (64, 2.5, "warning", "export OMP_NUM_THREADS=2"),
        (1, 16, "warning", "Leave OMP_NUM_THREADS unset"),
        (1, 0.5, "ok", ""),
        (8, 8, "ok", ""),
    ],
)
def test_threads_against_cores(monkeypatch, count, cores, state, remedy):
    monkeypatch.setattr("torch.get_num_threads", lambda: count)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    (finding,) = devices.threads()
    assert (finding.state, finding.remedy[: len(remedy)]) == (state, remedy)


@pytest.mark.parametrize(("free", "state"), [(0.06, "warning"), (20, "ok")])
def test_shared_memory(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(disks, "_SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIB, total=64 * GIB))
    (finding,) = disks.shared_memory()
    assert (finding.state, bool(finding.remedy)) == (state, state != "ok")
    monkeypatch.setattr(disks, "_SHARED", tmp_path / "nowhere")
    assert [finding.state for finding in disks.shared_memory()] == ["ok"]


def test_disks_that_are_full_or_closed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    states = []
    for free in (0.05, 1, 100):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free * GIB))
        here, weights, _ = disks.disk()
        states.append((here.state, weights.state))
    assert states == [("problem", "warning"), ("warning", "warning"), ("ok", "ok")]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    here, weights, _ = disks.disk()
    assert (here.state, weights.state) == ("warning", "warning")
    assert "HF_HOME" in weights.remedy


def test_plugins_that_are_broken(monkeypatch):
    from leapcore.plugins.loader import Plugins

    monkeypatch.setattr(
        "leapcore.plugins.loader.installed_plugins",
        lambda: Plugins([EntryPoint("bad", "nowhere", "leapcore")]),
    )
    bad, working = packages.plugins()
    assert (bad.state, "plugin 'bad'" in bad.message, "nowhere" in bad.message) == ("warning", True, True)
    assert (working.state, working.message) == ("ok", "builtin work")
