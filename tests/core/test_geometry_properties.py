"""Features of any two backbones meet on one grid, whatever their sizes."""

from typing import get_args

import torch
from hypothesis import given
from hypothesis import strategies as st
from properties import quick
from torch import nn

from leapcore import LayerFeatures, LayerInfo, Match
from leapcore.core.features import on_common_grid
from leapcore.core.matching import StudentFeatures
from leapcore.core.objective import ClsHead, CommonGrid

sides = st.integers(1, 9)
grids = st.tuples(sides, sides)
grids_or_none = st.none() | grids


@st.composite
def features(draw, grid=grids_or_none, channels=3):
    """Two images' tokens: on a grid or without one, with a class token or without."""
    grid = draw(grid)
    tokens = draw(sides) if grid is None else grid[0] * grid[1]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    prefix = torch.randn(2, 2, channels, generator=generator) if draw(st.booleans()) else None
    return LayerFeatures(torch.randn(2, tokens, channels, generator=generator), grid, prefix)


def _close(one, other):
    return torch.allclose(one, other, atol=1e-5)


@quick
@given(st.tuples(sides, sides, sides, sides))
def test_a_feature_map_comes_back_from_its_tokens(shape):
    feature_map = torch.randn(shape)
    these = LayerFeatures.from_nchw(feature_map)
    assert torch.equal(these.tokens.transpose(1, 2).unflatten(2, these.grid), feature_map)


@quick
@given(features(grid=grids), grids, st.floats(-3, 3))
def test_resizing_makes_no_values_up(these, grid, value):
    """It averages: constants stay, nothing leaves its range, the class token is none of its business."""
    resized = these.resized(grid)
    assert (resized.grid, resized.tokens.shape) == (grid, (2, grid[0] * grid[1], 3))
    assert resized.prefix_tokens is these.prefix_tokens
    assert resized.tokens.max() <= these.tokens.max() + 1e-5
    assert resized.tokens.min() >= these.tokens.min() - 1e-5
    constant = LayerFeatures(torch.full_like(these.tokens, value), these.grid).resized(grid)
    assert _close(constant.tokens, torch.full_like(constant.tokens, value))


@quick
@given(features(grid=grids), grids)
def test_rows_and_columns_are_resized_apart(these, grid):
    """torch's antialiased interpolation repeats the first row where the result has a single column."""
    rows_first = these.resized((grid[0], these.grid[1])).resized(grid)
    assert _close(rows_first.tokens, these.resized(grid).tokens)


@quick
@given(features(grid=st.just((8, 6))), st.sampled_from([(4, 6), (8, 3), (4, 3), (2, 2), (1, 1)]))
def test_a_grid_that_divides_keeps_the_mean(these, grid):
    assert _close(these.resized(grid).tokens.mean(1), these.tokens.mean(1))


@quick
@given(features(grid=grids), grids)
def test_a_linear_head_and_a_resize_may_change_places(these, grid):
    head = nn.Linear(3, 5)
    assert _close(these.resized(grid).map(head).tokens, these.map(head).resized(grid).tokens)


@quick
@given(features(grid=grids), grids)
def test_no_image_touches_another(these, grid):
    pieces = [these.map(lambda tokens, image=image: tokens[image : image + 1]) for image in range(2)]
    joined = LayerFeatures.joined([piece.resized(grid) for piece in pieces])
    assert _close(joined.tokens, these.resized(grid).tokens)


@quick
@given(features(), features(), st.sampled_from(get_args(CommonGrid)))
def test_any_two_meet_whichever_comes_first(a, b, grid):
    left, right = on_common_grid(a, b, grid=grid)
    assert left.grid == right.grid or None in (left.grid, right.grid)
    assert left.tokens.shape == right.tokens.shape
    swapped = on_common_grid(b, a, grid=grid)
    assert torch.equal(swapped[0].tokens, right.tokens)
    assert torch.equal(swapped[1].tokens, left.tokens)
    assert torch.equal(left.pooled, a.pooled) or a.prefix_tokens is None


class _Stub(nn.Module):
    """All that a match looks at of a backbone."""

    embedding = None

    def __init__(self, *channels):
        super().__init__()
        self.layers = [LayerInfo(f"blocks.{i}", width, 8) for i, width in enumerate(channels)]


@quick
@given(
    features(channels=4),
    features(channels=6),
    st.sampled_from(get_args(CommonGrid)),
    st.sampled_from(get_args(ClsHead)),
)
def test_a_match_compares_any_student_with_any_teacher(ours, theirs, grid, cls_head):
    match = Match(_Stub(4, 4), _Stub(6, 6, 6), grid=grid, cls_head=cls_head)
    ((projected, target),) = match.projected(StudentFeatures({1: ours}), [theirs])
    assert projected.tokens.shape == target.tokens.shape
    assert projected.pooled.shape == target.pooled.shape == (2, 6)
    assert projected.tokens.isfinite().all()
