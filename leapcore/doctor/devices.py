"""What computes: torch, GPUs, torchvision's operators, DeepSpeed, threads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

from leapcore.distributed.cores import usable_cores
from leapcore.doctor.runner import Finding
from leapcore.runs.json_files import read_text

_BUILDS = "Install the build for your driver: https://pytorch.org/get-started/locally"
_DRIVER = Path("/proc/driver/nvidia/version")


def torch_itself() -> Iterator[Finding]:
    """Whether torch can be imported and computes."""
    import torch

    (torch.ones(2, 2) @ torch.ones(2, 2)).sum().item()
    yield Finding("ok", f"{torch.__version__} computes, built for {_built_for(torch)}")


def accelerator() -> Iterator[Finding]:
    """GPUs that torch can use, and why it cannot use those that are there."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(torch, index)
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Finding("ok", "GPUs are hidden by CUDA_VISIBLE_DEVICES: training runs on the CPU")
    elif glob("/dev/nvidia[0-9]*") or Path("/dev/dxg").exists():
        yield _unused_gpu(torch)
    elif _DRIVER.exists():
        message = "the machine has an NVIDIA driver, but no GPU is given to this container or job"
        yield Finding("warning", message, "Ask for one: docker run --gpus all, sbatch --gpus 1.")
    else:
        yield Finding("ok", "no GPU: training runs on the CPU")


def torchvision_itself() -> Iterator[Finding]:
    """Whether torchvision can be imported, and what had to be done for it."""
    from leapcore.compat import torchvision_operators

    operators = torchvision_operators()
    import torch
    import torchvision

    version = torchvision.__version__
    if operators == "compiled":
        yield Finding("ok", f"{version}, compiled operators loaded")
    elif torch.version.cuda is None:
        reason = "its compiled operators do not load beside a CPU-only torch, so their names are declared"
        yield Finding("ok", f"{version}; {reason}; leapcore uses none of them")
    else:
        message = f"torchvision {version} is built for another torch than {torch.__version__}"
        yield Finding("warning", message, "Install both together: pip install --upgrade torch torchvision")


def deepspeed_itself() -> Iterator[Finding]:
    """Whether one process can train: it imports DeepSpeed and joins a process group."""
    import torch.distributed as dist

    from leapcore.compat import import_deepspeed
    from leapcore.distributed.ranks import join

    deepspeed = import_deepspeed()
    join()
    backend = dist.get_backend()
    dist.barrier()
    available = {"gloo": dist.is_gloo_available(), "NCCL": dist.is_nccl_available()}
    backends = ", ".join(name for name, is_there in available.items() if is_there)
    group = f"joined a process group of one ({backend}); torch has {backends}"
    yield Finding("ok", f"{deepspeed.__version__}, {group}; {_compiler()}")


def threads() -> Iterator[Finding]:
    """How many threads torch takes, against the cores that this process may use."""
    import torch

    count, cores = torch.get_num_threads(), usable_cores()
    message = f"torch takes {count} on {cores:g} usable cores"
    if count > max(1, cores):
        remedy = f"export OMP_NUM_THREADS={max(1, int(cores))}"
        yield Finding("warning", f"{message}: they wait for each other", remedy)
    elif count <= cores / 2 and not torch.cuda.is_available():
        setting = os.environ.get("OMP_NUM_THREADS")
        reason = f" (OMP_NUM_THREADS={setting})" if setting else ""
        remedy = "Leave OMP_NUM_THREADS unset, or share the cores with --processes or --jobs."
        yield Finding("warning", f"{message}: the others idle{reason}", remedy)
    else:
        yield Finding("ok", message)


def _compiler() -> str:
    """The C++ compiler of this machine, if it has one."""
    programs = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((name for name in programs if name and shutil.which(name)), None)
    return f"C++ compiler {compiler}" if compiler else "no C++ compiler, which engine.compile alone needs"


def _gpu(torch: Any, index: int) -> Finding:
    """Whether a GPU computes, which it does not if torch has no code for its kind."""
    device, name = torch.device("cuda", index), torch.cuda.get_device_name(index)
    try:
        (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).sum().item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        message = f"cuda:{index} {name} does not compute: {str(error).splitlines()[0]}"
        return Finding("problem", message, _BUILDS)
    message = f"cuda:{index} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {_driver()}"
    if free < total / 2:
        return Finding(
            "warning", message, "Others use it: see nvidia-smi; CUDA_VISIBLE_DEVICES chooses another."
        )
    return Finding("ok", message)


def _unused_gpu(torch: Any) -> Finding:
    if torch.version.cuda is None and torch.version.hip is None:
        message = "there is a GPU, but this torch is built for CPUs alone, and training runs there"
        return Finding("warning", message, _BUILDS)
    try:
        torch.cuda.init()
        reason = "it gives no reason"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    message = f"there is a GPU that torch (for {_built_for(torch)}) cannot use with {_driver()}: {reason}"
    return Finding("problem", message, f"Update the driver, or: {_BUILDS[0].lower()}{_BUILDS[1:]}")


def _built_for(torch: Any) -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPUs alone"


def _driver() -> str:
    version = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", read_text(_DRIVER))
    return f"driver {version[1]}" if version else "a driver of unknown version"
