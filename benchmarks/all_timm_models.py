"""Try every architecture that timm has, in the family that takes it, on the meta device.

    python benchmarks/all_timm_models.py docs/timm-models.csv

Nothing is downloaded and no arithmetic done: each model is built without weights at its own image size, its
layers are compared with what they say, and the MACs up to each one are counted.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from leapcore import LeapcoreError, import_timm
from leapcore.core.flops import count_layer_macs
from leapcore.core.layer_check import check_layers
from leapcore.plugins.loader import installed_plugins

FAMILIES = ("vit", "hierarchical", "convnext", "hybrid")


class Row(NamedTuple):
    model: str
    family: str
    image_size: int
    layers: int
    gmacs: float
    cheapest_share: float
    verdict: str


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("output", type=Path)
    arguments.add_argument("--only", default="", help="Only models whose name has this in it.")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    with options.output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        for model, family in sorted(families_by_model().items()):
            if options.only in model:
                writer.writerow(tried(model, family))
                file.flush()


def families_by_model() -> dict[str, str]:
    """The family of each of timm's models: the finest that lists it, else the generic one."""
    found = dict.fromkeys(import_timm().list_models(), "timm")
    for family in FAMILIES:
        found.update(dict.fromkeys(installed_plugins().get("backbones", family).models(), family))
    return found


def tried(model: str, family: str) -> Row:
    """Build and count one model; where its own family refuses it, the generic one."""
    row = _tried(model, family)
    if row.verdict != "ok" and family != "timm":
        generic = _tried(model, "timm")
        return generic if generic.verdict == "ok" else row
    return row


def _tried(model: str, family: str) -> Row:
    timm: Any = import_timm()
    config = timm.models.get_pretrained_cfg(model)
    size = config.input_size[-1]
    try:
        with torch.device("meta"):
            factory = installed_plugins().get("backbones", family)
            provider = factory(model=model, weights="none", image_size=size, options={})
        check_layers(provider)
        macs = count_layer_macs(provider)
    # The table is there to show whatever goes wrong.
    except Exception as error:
        cause = error.cause if isinstance(error, LeapcoreError) else f"{type(error).__name__}: {error}"
        return Row(model, family, size, 0, 0, 0, cause.splitlines()[0][:200])
    verdict = "ok" if min(macs.steps) > 0 else "a layer costs nothing"
    return Row(
        model, family, size, len(macs.steps), round(macs.whole / 1e9, 3),
        round(macs.until(0) / macs.whole, 4), verdict,
    )  # fmt: skip


if __name__ == "__main__":
    main()
