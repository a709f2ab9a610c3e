"""Write docs/backbones.md: which families keep which rules, on which models, and what of timm can be used.

python benchmarks/all_timm_models.py docs/timm-models.csv   # about an hour on one core
python benchmarks/backbone_table.py
"""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from leapcore import import_timm
from leapcore.models.build import build_backbone
from leapcore.plugins.loader import installed_plugins
from leapcore.testing.backbone import report_on_backbone
from leapcore.testing.backbone_rules import RULES

DOCS = Path(__file__).parents[1] / "docs"
FAMILIES = ("vit", "hierarchical", "convnext", "hybrid", "timm")

INTRO = """\
# Backbones

## Which family is my model in?

`leapcore backbones` lists the families, and `leapcore backbones MODEL` says in which one
a model of timm {version} is:

| family | models | what |
| --- | --- | --- |"""

EXAMPLE = """
`leapcore backbones --family hybrid` lists a family's models, and `leapcore backbones convnext_tiny`
a model's layers with what each costs:

```
convnext_tiny, family convnext, 224 x 224 pixels, 27,820,128 parameters
layer  name               channels  stride  grid     prefix  GMACs   share
────────────────────────────────────────────────────────────────────────────
1      stages.0.blocks.0  96        4       56 x 56  0       0.2634  5.9%
…
18     stages.3.blocks.2  768       32      7 x 7    0       4.4698  100.0%
```

A layer is a block, except in the family `timm`, where it is a stage (or a block, for models without
stages). A model's final norm is applied to those of a teacher's layers that have its width (all of a ViT, the
last stage of others), a norm without parameters to the rest (`objective.target_norm`).
"""


def main() -> None:
    warnings.simplefilter("ignore")
    with (DOCS / "timm-models.csv").open() as file:
        rows = list(csv.DictReader(file))
    parts = [
        *families(rows),
        EXAMPLE,
        *all_models(rows),
        "\n## The contract, family by family\n",
        *contract_table(),
    ]
    end = "\nThis page's figures are written by `benchmarks/backbone_table.py`."
    (DOCS / "backbones.md").write_text("\n".join([*parts, end]) + "\n")


def families(rows: list[dict[str, str]]) -> Iterator[str]:
    """How many usable architectures each family has, and what they are."""
    usable = Counter(row["family"] for row in rows if row["verdict"] == "ok")
    yield INTRO.format(version=import_timm().__version__)
    for family in FAMILIES:
        factory = installed_plugins().get("backbones", family)
        yield f"| `{family}` | {usable[family]} | {factory.summary} |"


def contract_table() -> Iterator[str]:
    """Every sample of every family against every rule."""
    yield (
        "Each model is built small and with random weights, and checked by `check_backbone`, as in tests. "
        "What the rules mean is in [plugins.md](plugins.md). ✓ kept, ✗ broken.\n"
    )
    yield "| family | model | layers | widths | strides | " + " | ".join(r.name for r in RULES) + " | s |"
    yield "| --- " * (6 + len(RULES)) + "|"
    for family in FAMILIES:
        factory = installed_plugins().get("backbones", family)
        for model, size, options in factory.samples:
            provider = build_backbone(
                family, model=model, weights="none", image_size=size, options=dict(options)
            )
            report = report_on_backbone(factory, size, model=model, options=options)
            marks = ["✗" if result.broken else "✓" for result in report.results]
            widths = ", ".join(map(str, dict.fromkeys(layer.channels for layer in provider.layers)))
            strides = ", ".join(map(str, dict.fromkeys(layer.stride for layer in provider.layers)))
            seconds = sum(result.seconds for result in report.results)
            cells = [family, model, str(len(provider.layers)), widths, strides, *marks, f"{seconds:.1f}"]
            yield f"| {' | '.join(cells)} |"


def all_models(rows: list[dict[str, str]]) -> Iterator[str]:
    """What became of every architecture in timm."""
    refused = [row for row in rows if row["verdict"] != "ok"]
    yield f"## All {len(rows)} architectures of timm {import_timm().__version__}\n"
    yield (
        "Built without weights at their own image size on the meta device: layers compared with what they "
        "say, and MACs counted up to each one. [timm-models.csv](timm-models.csv) has a line for each.\n"
    )
    yield f"**{len(rows) - len(refused)} of {len(rows)}** are usable. Not usable, and why:\n"
    yield "| reason | models |\n| --- | --- |"
    yield from refusals(refused)


def refusals(rows: list[dict[str, str]]) -> Iterator[str]:
    """The reasons, each with its models."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        reason = row["verdict"].replace(row["model"], "the model").replace("|", "/")
        by_reason.setdefault(reason, []).append(row["model"])
    for reason, models in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        yield f"| {reason} | {', '.join(models)} |"


if __name__ == "__main__":
    main()
