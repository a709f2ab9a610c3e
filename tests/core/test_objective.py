from typing import get_args

import pytest

from leapcore import Match
from leapcore.core.objective import ClsHead, CommonGrid, Reduction, TargetName, TargetNormName
from leapcore.spec import ObjectiveSpec

CHOICES = {
    "target": TargetName,
    "reduction": Reduction,
    "cls_head": ClsHead,
    "target_norm": TargetNormName,
    "grid": CommonGrid,
}


@pytest.mark.parametrize("option", CHOICES)
def test_an_option_has_the_names_and_values_of_the_spec(option):
    annotation = ObjectiveSpec.model_fields[option].annotation
    in_spec = [value for value in get_args(annotation) if isinstance(value, str)] or get_args(
        get_args(annotation)[0]  # of Literal | None
    )
    assert tuple(in_spec) == get_args(CHOICES[option])


@pytest.mark.parametrize("option", CHOICES)
def test_another_value_is_refused_by_name(vit, option):
    with pytest.raises(ValueError, match=f"{option} is 'nonesuch', but has to be one of: "):
        Match(vit(), vit(), **{option: "nonesuch"})
