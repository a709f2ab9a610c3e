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

from leapcore.doctor import devices, packages, surroundings
from leapcore.doctor.checks import CHECKS
from leapcore.doctor.finding import Check, Finding, examine, look, worst

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


def _found(*looks, **options):
    return dict(examine([Check(look.__name__, look, "Mend it.") for look in looks], **options))


def test_a_check_that_fails_in_any_way_is_a_finding_and_the_next_one_is_made():
    found = _found(raises, aborts, exits, sound)
    assert all(findings[-1].remedy == "Mend it." for name, findings in found.items() if name != "sound")
    assert re.fullmatch(
        r"ImportError: libfoo.so: cannot open \(test_doctor.py:\d+\)", found["raises"][0].said
    )
    assert found["aborts"] == [
        Finding("problem", "the process that looked at it was ended: SIGABRT", "Mend it.")
    ]
    assert found["exits"][0].state == "problem"
    assert found["sound"] == [Finding("ok", "sound")]


def test_a_check_that_hangs_is_given_up_and_those_that_need_it_are_not_made():
    slow, after = Check("slow", sleeps, "Wait."), Check("after", aborts, "Mend it.", needs="slow")
    found = dict(examine([slow, after], patience=1))
    assert found["slow"] == [Finding("problem", "no answer within 1 s", "Wait.")]
    assert found["after"] == [Finding("warning", "not looked at, since slow is broken", "Mend slow first.")]


@pytest.mark.parametrize(
    ("look", "code", "last"),
    [
        (sound, 0, "all is well"),
        (doubtful, 0, "leapcore can run here; 1 warning"),
        (raises, 1, "1 to mend before a run can work, 0 to look at"),
    ],
)
def test_exit_codes(leapcore_, monkeypatch, look, code, last):
    monkeypatch.setattr("leapcore.doctor.checks.CHECKS", (Check("this", look, "Mend it."),))
    ended, out, _ = leapcore_("doctor")
    lines = out.splitlines()
    assert (ended, lines[-1], lines[0].startswith("leapcore ")) == (code, last, True)
    assert re.search(r"^(ok|warning|problem) +this +\S+", out, re.MULTILINE)
    ended, out, _ = leapcore_("doctor", "--json")
    told = json.loads(out)
    assert (ended, told["state"]) == (
        code,
        {0: "ok", 1: "problem"}[code] if look is not doubtful else "warning",
    )
    assert told["findings"][0].keys() == {"check", "state", "said", "remedy"}


def test_a_torch_that_aborts_does_not_take_the_command_down(tmp_path):
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "leapcore", "doctor", "--json"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert (done.returncode, list(found)) == (1, [check.name for check in CHECKS])
    assert "SIGABRT" in found["torch"]["said"]
    assert "force-reinstall torch" in found["torch"]["remedy"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_where_the_tests_run_nothing_is_broken(check):
    found = look(check)
    assert worst(found) != "problem", found
    assert all(finding.said for finding in found)
    assert all(finding.remedy for finding in found if finding.state != "ok")


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
    wanted = ["torch>=2.6", "timm>=1.0.26", "fvcore>=0.1", "onnx>=1.19; extra == 'onnx'"]
    needed(wanted, {"torch": "2.13.0+cpu", "timm": "0.9.2", "onnx": "1.2"}, python=">=4")
    old, missing, python, told = packages.versions()
    assert (old.state, old.remedy) == ("problem", "pip install --upgrade 'timm>=1.0.26'")
    assert "timm 0.9.2" in old.said
    assert missing.said == "fvcore is not installed"
    assert python.said == "leapcore needs Python >=4"
    assert told.said.endswith("1 of 3 needed packages are there and new enough")
    extra, told = packages.extras()
    assert (extra.state, "onnx 1.2 is too old" in extra.said) == ("warning", True)
    assert told.said == "installed: onnx; not installed: parquet"


def test_a_library_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    (found,) = packages.libraries()
    assert (found.state, found.remedy) == (
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
    (found,) = devices.accelerator()
    assert (found.state, "built for CPUs alone" in found.said) == ("warning", True)
    assert "pytorch.org" in found.remedy
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
    (found,) = devices.accelerator()
    assert found.state == "problem"
    assert "(for CUDA 13.0) cannot use with driver 470.82.01: The NVIDIA driver on your" in found.said
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
    assert (free.state, "cuda:0 H100, 70.0 of 80.0 GiB free" in free.said) == ("ok", True)
    assert (used.state, "nvidia-smi" in used.remedy) == ("warning", True)
    assert (broken.state, "cuda:2 H100 does not compute" in broken.said) == ("problem", True)


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
    (found,) = look(check)
    assert (found.state, found.remedy) == (
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
    (found,) = devices.threads()
    assert (found.state, found.remedy[: len(remedy)]) == (state, remedy)


@pytest.mark.parametrize(("free", "state"), [(0.06, "warning"), (20, "ok")])
def test_shared_memory(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(surroundings, "_SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIB, total=64 * GIB))
    (found,) = surroundings.shared_memory()
    assert (found.state, bool(found.remedy)) == (state, state != "ok")
    monkeypatch.setattr(surroundings, "_SHARED", tmp_path / "nowhere")
    assert [finding.state for finding in surroundings.shared_memory()] == ["ok"]


def test_disks_that_are_full_or_closed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet"))
    states = []
    for free in (0.05, 1, 100):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free * GIB))
        here, weights, _ = surroundings.disk()
        states.append((here.state, weights.state))
    assert states == [("problem", "warning"), ("warning", "warning"), ("ok", "ok")]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    here, weights, _ = surroundings.disk()
    assert (here.state, weights.state) == ("warning", "warning")
    assert "HF_HOME" in weights.remedy


def test_plugins_that_are_broken(monkeypatch):
    from leapcore.plugins.loader import Plugins

    monkeypatch.setattr(
        "leapcore.plugins.loader.installed_plugins",
        lambda: Plugins([EntryPoint("bad", "nowhere", "leapcore")]),
    )
    bad, working = surroundings.plugins()
    assert (bad.state, "plugin 'bad'" in bad.said, "nowhere" in bad.said) == ("warning", True, True)
    assert (working.state, working.said) == ("ok", "builtin work")
