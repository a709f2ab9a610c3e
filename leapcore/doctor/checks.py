"""All checks in their order: quick ones first, and those that others need."""

from __future__ import annotations

from leapcore.doctor import devices, disks, packages
from leapcore.doctor.runner import Check

_AGAIN = "Install it again: pip install --force-reinstall "
_SEE_WHICH = "See which: "
_UNSEEN = "Nothing is known to be wrong; see whether a run works: leapcore run quickstart"

# Isolated are those that can end Python itself, or never return: a network disk that is gone blocks every
# access, importing torch can abort, a driver can hang, and DeepSpeed's check joins a process group.
CHECKS = (
    Check("packages", packages.versions, "Install leapcore itself: pip install -e . in its folder."),
    Check("extras", packages.extras, _UNSEEN),
    Check("disk", disks.disk, "Change to a folder that is there and that you may read.", isolated=True),
    Check("shared memory", disks.shared_memory, _UNSEEN),
    Check("torch", devices.torch_itself, f"{_AGAIN}torch", isolated=True),
    Check(
        "accelerator",
        devices.accelerator,
        "See more: python -m torch.utils.collect_env",
        needs="torch",
        isolated=True,
    ),
    Check("threads", devices.threads, f"{_AGAIN}torch", needs="torch"),
    Check("torchvision", devices.torchvision_itself, f"{_AGAIN}torchvision", needs="torch"),
    Check(
        "libraries",
        packages.libraries,
        f"{_SEE_WHICH}python -c 'import scipy, sklearn, timm'",
        needs="torch",
    ),
    Check("deepspeed", devices.deepspeed_itself, f"{_AGAIN}deepspeed", needs="torch", isolated=True),
    Check("plugins", packages.plugins, f"{_SEE_WHICH}leapcore plugins", needs="torch"),
)
