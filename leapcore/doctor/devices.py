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
from leapcore.doctor.finding import Finding
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
        said = "the machine has an NVIDIA driver, but no GPU is given to this container or job"
        yield Finding("warning", said, "Ask for one: docker run --gpus all, sbatch --gpus 1.")
    else:
        yield Finding("ok", "no GPU: training runs on the CPU")


def torchvision_itself() -> Iterator[Finding]:
    """Whether torchvision can be imported, and what had to be done for it."""
    from leapcore.compat import torchvision_operators

    how = torchvision_operators()
    import torch
    import torchvision

    version = torchvision.__version__
    if how == "compiled":
        yield Finding("ok", f"{version}, compiled operators loaded")
    elif torch.version.cuda is None:
        said = "its compiled operators do not load beside a CPU-only torch, so their names are declared"
        yield Finding("ok", f"{version}; {said}; leapcore uses none of them")
    else:
        said = f"torchvision {version} is built for another torch than {torch.__version__}"
        yield Finding("warning", said, "Install both together: pip install --upgrade torch torchvision")


def deepspeed_itself() -> Iterator[Finding]:
    """Whether a run of one process can be carried: DeepSpeed, and a process group."""
    import torch.distributed as dist

    from leapcore.compat import import_deepspeed
    from leapcore.distributed.ranks import join

    deepspeed = import_deepspeed()
    join()
    backend = dist.get_backend()
    dist.barrier()
    known = {"gloo": dist.is_gloo_available(), "NCCL": dist.is_nccl_available()}
    there = ", ".join(name for name, found in known.items() if found)
    compiler = next((name for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if _found(name)), None)
    told = f"C++ compiler {compiler}" if compiler else "no C++ compiler, which engine.compile alone needs"
    said = f"{deepspeed.__version__}, joined a process group of one ({backend}); torch has {there}; {told}"
    yield Finding("ok", said)


def threads() -> Iterator[Finding]:
    """How many threads torch takes, against the cores that this process may use."""
    import torch

    count, cores = torch.get_num_threads(), usable_cores()
    said = f"torch takes {count} on {cores:g} usable cores"
    if count > max(1, cores):
        yield Finding(
            "warning", f"{said}: they wait for each other", f"export OMP_NUM_THREADS={max(1, int(cores))}"
        )
    elif count <= cores / 2 and not torch.cuda.is_available():
        told = os.environ.get("OMP_NUM_THREADS")
        remedy = "Leave OMP_NUM_THREADS unset, or share the cores with --processes or --jobs."
        yield Finding(
            "warning", f"{said}: the others idle" + f" (OMP_NUM_THREADS={told})" * bool(told), remedy
        )
    else:
        yield Finding("ok", said)


def _gpu(torch: Any, index: int) -> Finding:
    """Whether a GPU computes, which it does not if torch has no code for its kind."""
    device, name = torch.device("cuda", index), torch.cuda.get_device_name(index)
    try:
        (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).sum().item()
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        said = f"cuda:{index} {name} does not compute: {str(error).splitlines()[0]}"
        return Finding("problem", said, _BUILDS)
    said = f"cuda:{index} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {_driver()}"
    if free < total / 2:
        return Finding(
            "warning", said, "Others use it: see nvidia-smi; CUDA_VISIBLE_DEVICES chooses another."
        )
    return Finding("ok", said)


def _unused_gpu(torch: Any) -> Finding:
    if torch.version.cuda is None and torch.version.hip is None:
        said = "there is a GPU, but this torch is built for CPUs alone, and training runs there"
        return Finding("warning", said, _BUILDS)
    try:
        torch.cuda.init()
        reason = "it gives no reason"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
    said = f"there is a GPU that torch (for {_built_for(torch)}) cannot use with {_driver()}: {reason}"
    return Finding("problem", said, f"Update the driver, or: {_BUILDS[0].lower()}{_BUILDS[1:]}")


def _built_for(torch: Any) -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else "CPUs alone"


def _driver() -> str:
    found = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", read_text(_DRIVER))
    return f"driver {found[1]}" if found else "a driver of unknown version"


def _found(program: str | None) -> bool:
    return bool(program and shutil.which(program))
