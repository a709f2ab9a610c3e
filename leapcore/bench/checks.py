"""Whether the models of a benchmark can be built, checked before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from leapcore.bench.matrix import Cell
from leapcore.errors import LeapcoreError, SpecError
from leapcore.models.build import backbone_of
from leapcore.spec import BackboneSpec
from leapcore.spec.paths import WITHOUT_FILE


def check_models(cells: Sequence[Cell]) -> None:
    """Build every teacher and student once, without weights where those would have to be drawn or fetched.

    Raises:
        SpecError: Some cannot be built; all faults are listed with a cell.
    """
    seen: set[str] = set()
    faults, remedies = list[str](), dict[str, None]()
    for cell, role, model in _backbones(cells):
        size = cell.spec.data.image_size
        key = json.dumps([model.model_dump(), size])
        if key in seen:
            continue
        seen.add(key)
        try:
            _build(model, size)
        except LeapcoreError as error:
            faults.append(f"cell {cell.name}: {role}: {error.cause}")
            remedies[error.remedy] = None
    if faults:
        cause = "nothing was run, since models cannot be built:\n" + "\n".join(faults)
        raise SpecError(cause, "\n".join(remedies))


def _backbones(cells: Sequence[Cell]) -> Iterator[tuple[Cell, str, BackboneSpec]]:
    for cell in cells:
        for role, model in (*cell.spec.each_teacher.items(), ("student", cell.spec.student)):
            yield cell, role, BackboneSpec(**model.model_dump(include=set(BackboneSpec.model_fields)))


def _build(model: BackboneSpec, image_size: int) -> None:
    """On the meta device, which takes neither time nor memory; where a model refuses that, in earnest."""
    import torch

    drawn = model.weights in WITHOUT_FILE
    if drawn:
        model = model.model_copy(update={"weights": "none"})
    try:
        with torch.device("meta" if drawn else "cpu"):
            backbone_of(model, image_size)
    except LeapcoreError:
        backbone_of(model, image_size)
