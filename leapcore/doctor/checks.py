"""All checks in their order: what is quick and what others stand on comes first."""

from __future__ import annotations

from leapcore.doctor import devices, packages, surroundings
from leapcore.doctor.finding import Check

_AGAIN = "Install it again: pip install --force-reinstall "
_SEE_WHICH = "See which: "
_UNSEEN = "Nothing is known to be wrong; see whether a run works: leapcore run quickstart"

CHECKS = (
    Check("packages", packages.versions, "Install leapcore itself: pip install -e . in its folder."),
    Check("extras", packages.extras, _UNSEEN),
    Check("disk", surroundings.disk, "Change to a folder that is there and that you may read."),
    Check("shared memory", surroundings.shared_memory, _UNSEEN),
    Check("torch", devices.torch_itself, f"{_AGAIN}torch"),
    Check("accelerator", devices.accelerator, "See more: python -m torch.utils.collect_env", "torch"),
    Check("threads", devices.threads, f"{_AGAIN}torch", "torch"),
    Check("torchvision", devices.torchvision_itself, f"{_AGAIN}torchvision", "torch"),
    Check("libraries", packages.libraries, f"{_SEE_WHICH}python -c 'import scipy, sklearn, timm'", "torch"),
    Check("deepspeed", devices.deepspeed_itself, f"{_AGAIN}deepspeed", "torch"),
    Check("plugins", surroundings.plugins, f"{_SEE_WHICH}leapcore plugins", "torch"),
)
