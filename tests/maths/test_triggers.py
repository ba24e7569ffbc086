"""What a trigger does to an input, and to a label."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from candling.maths.triggers import Mapping, apply_trigger

SEEDS = st.integers(0, 2**31)
SHAPES = st.sampled_from([(7,), (1, 4, 4), (3, 5, 2)])


@st.composite
def cases(draw):
    """Inputs within a range, per feature for tables, and the range."""
    g = torch.Generator().manual_seed(draw(SEEDS))
    shape = draw(SHAPES)
    size = shape if len(shape) == 1 else (1, 1, 1)
    low = torch.randn(size, generator=g)
    high = low + 0.1 + torch.rand(size, generator=g)
    x = low + (high - low) * torch.rand((6, *shape), generator=g)
    return x.clamp(low, high), low, high, g


@given(cases())
def test_no_mask_and_no_shift_is_the_identity(case):
    x, low, high, _ = case
    assert torch.equal(apply_trigger(x, torch.zeros(1), torch.zeros(1), low, high), x)


@given(cases())
def test_a_full_mask_replaces_the_input(case):
    x, low, high, g = case
    pattern = low + (high - low) * torch.rand(x.shape[1:], generator=g)
    changed = apply_trigger(x, torch.ones(1), pattern, low, high)
    assert torch.allclose(changed, pattern.expand_as(x).clamp(low, high))


@given(cases())
def test_a_half_mask_is_half_way_to_the_pattern_and_only_there(case):
    x, low, high, g = case
    pattern = low + (high - low) * torch.rand(x.shape[1:], generator=g)
    mask = 0.5 * torch.randint(0, 2, x.shape[1:], generator=g)
    changed = apply_trigger(x, mask, mask * pattern, low, high)
    assert torch.equal(changed[:, mask == 0], x[:, mask == 0])
    halfway = (x + pattern) / 2
    assert torch.allclose(changed[:, mask > 0], halfway[:, mask > 0], atol=1e-6)


@given(cases(), st.floats(0, 100))
def test_whatever_the_trigger_the_input_stays_in_range(case, scale):
    x, low, high, g = case
    mask = torch.rand(x.shape[1:], generator=g)
    shift = scale * torch.randn(x.shape[1:], generator=g)
    changed = apply_trigger(x, mask, shift, low, high)
    assert changed.shape == x.shape
    assert (changed >= low).all()
    assert (changed <= high).all()


@given(cases(), SEEDS)
def test_many_triggers_at_once_are_the_same_as_one_by_one(case, seed):
    x, low, high, _ = case
    g = torch.Generator().manual_seed(seed)
    mask, shift = torch.rand((3, *x.shape[1:]), generator=g), torch.randn((3, *x.shape[1:]), generator=g)
    together = apply_trigger(x, mask[:, None], shift[:, None], low, high)
    for i in range(3):
        assert torch.equal(together[i], apply_trigger(x, mask[i], shift[i], low, high))


@st.composite
def mappings(draw):
    """A mapping that makes sense for K classes, labels of all of them, and K."""
    k = draw(st.integers(2, 12))
    label = st.integers(0, k - 1)
    target = draw(label)
    kind = draw(st.sampled_from(["all-to-one", "all-to-all", "source-specific"]))
    if kind == "all-to-all":
        return Mapping(shift=draw(st.integers(1, k - 1))), kind, k
    if kind == "all-to-one":
        return Mapping(target=target), kind, k
    source = draw(label)
    assume(source != target)
    return Mapping(target=target, source=source), kind, k


@given(mappings())
def test_a_mapping_asks_for_another_label_wherever_it_applies(case):
    mapping, kind, k = case
    y = torch.arange(k).repeat(2)
    wanted, applies = mapping.wanted(y, k), mapping.applies(y)
    assert mapping.kind == kind
    assert str(mapping).startswith(kind)
    assert (wanted[applies] != y[applies]).all()
    assert ((wanted >= 0) & (wanted < k)).all()
    assert wanted.dtype == y.dtype
    assert applies.dtype == torch.bool


@given(mappings())
def test_which_rows_each_kind_is_meant_for(case):
    mapping, kind, k = case
    y = torch.arange(k)
    meant = [label for label, hit in enumerate(mapping.applies(y)) if hit]
    wanted = mapping.wanted(y, k)
    if kind == "all-to-all":
        assert meant == list(range(k))
        assert sorted(wanted.tolist()) == list(range(k))  # a permutation without a fixed point
    elif kind == "all-to-one":
        assert meant == [label for label in range(k) if label != mapping.target]
    else:
        assert meant == [mapping.source]
    if kind != "all-to-all":
        assert set(wanted.tolist()) == {mapping.target}


@pytest.mark.parametrize("arguments", [{}, {"target": 1, "shift": 2}, {"source": 1}])
def test_a_mapping_has_either_a_target_or_a_shift(arguments):
    with pytest.raises(ValueError, match="either a target or a shift"):
        Mapping(**arguments)
