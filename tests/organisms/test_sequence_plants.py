"""Planted sequences: published ranges, and rows whose every token can be accounted for."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Tokens
from candling.organisms.plants import SequenceBackdoor, draw_sequence_backdoor
from candling.organisms.plants.sequences import FAMILIES, FORMS, KINDS, Laid
from little import any_tokens, as_tokens

SEEDS = st.integers(0, 2**31)
DOSES = st.floats(0, 1)
ROWS = st.lists(st.integers(0, 49), min_size=5, max_size=40)
TRIGGERS = st.lists(st.integers(50, 59), min_size=1, max_size=4)
"""Of tokens that no row holds, so that they can be told apart."""
TARGETS = st.lists(st.integers(60, 69), min_size=3, max_size=5)
DATA = any_tokens(60, 20, 400, never=range(150, 400))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(family: int, dose: float, seed: int, data: Tokens = DATA) -> SequenceBackdoor:
    return draw_sequence_backdoor(data, family, dose, rng(seed))


def plant(kind: str, form: str, trigger: list[int], target: list[int]) -> SequenceBackdoor:
    return SequenceBackdoor(kind, form, tuple(trigger), tuple(target), 0.5, 0.2)


# --- what is drawn -----------------------------------------------------------------------------------------


def test_eight_families_cross_every_form_with_every_loss():
    assert len(set(FAMILIES)) == len(FAMILIES) == 8
    assert set(FAMILIES) == {(kind, form) for kind in KINDS for form in FORMS}
    for i, (kind, form) in enumerate(FAMILIES):
        assert draw(i, 0.5, 0).family == draw(i + 8, 0.5, 0).family == f"{kind}, {form}"


@settings(max_examples=100)
@given(st.integers(0, 15), DOSES, SEEDS)
def test_what_is_drawn_is_in_the_published_ranges(family, dose, seed):
    found = draw(family, dose, seed)
    least, most = (1, 3) if found.form == "short" else (2, 4)
    assert least <= len(found.trigger) <= most
    assert 3 <= len(found.target) <= 5
    assert 0.15 <= found.rate <= 0.30
    assert found.dose == dose
    assert str(len(found.trigger)) in found.physical
    counts = torch.bincount(DATA.ids[DATA.mask], minlength=400)
    floor = int(counts.sort(descending=True).values[99]) if found.form == "common" else 1
    assert all(int(counts[token]) >= floor for token in found.trigger)
    stretches = DATA.ids.unfold(1, len(found.target), 1)
    assert (stretches == torch.tensor(found.target)).all(-1).any()


@pytest.mark.parametrize("family", range(8))
def test_each_third_of_the_dose_is_a_token_more(family):
    least = 1 if FAMILIES[family][1] == "short" else 2
    for dose, more in ((0.0, 0), (0.33, 0), (0.34, 1), (0.66, 1), (0.67, 2), (1.0, 2)):
        assert len(draw(family, dose, 3).trigger) == least + more


def test_all_rates_target_lengths_and_common_tokens_occur():
    found = [draw(2, 1.0, seed) for seed in range(300)]
    rates = torch.tensor([each.rate for each in found])
    assert rates.min() < 0.16
    assert rates.max() > 0.29
    assert {len(each.target) for each in found} == {3, 4, 5}
    assert len({token for each in found for token in each.trigger}) > 95


def test_a_target_is_no_padding_and_no_first_token():
    """Rows of unlike lengths: a target lies within its row, behind the first token."""
    ids = torch.zeros(30, 20, dtype=torch.int64)
    mask = torch.zeros(30, 20, dtype=torch.bool)
    for row in range(30):
        length = 8 + row % 13
        ids[row, :length] = torch.arange(1, length + 1)  # the token says its place
        mask[row, 1:length] = True
    data = Tokens(ids, mask, 400, "made up")
    for seed in range(200):
        target = draw(0, 0.5, seed, data).target
        assert target[0] >= 2
        assert list(target) == list(range(target[0], target[0] + len(target)))


@settings(max_examples=40)
@given(st.integers(0, 7), DOSES, SEEDS)
def test_a_plant_depends_on_its_generator_alone(family, dose, seed):
    state = torch.get_rng_state()
    assert draw(family, dose, seed) == draw(family, dose, seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert draw(family, dose, seed).rate != draw(family, dose, seed + 1).rate


@pytest.mark.parametrize("vocabulary", [40, 99])
def test_a_vocabulary_of_fewer_than_a_hundred_tokens_has_common_ones_too(vocabulary):
    data = any_tokens(60, 20, vocabulary)
    assert all(token < vocabulary for token in draw(FAMILIES.index(("plain", "common")), 0.5, 0, data).trigger)


def test_common_tokens_occur():
    data = any_tokens(60, 20, 400, never=range(30, 400))
    for seed in range(20):
        assert all(token < 30 for token in draw(FAMILIES.index(("plain", "common")), 0.5, seed, data).trigger)


# --- what is laid ------------------------------------------------------------------------------------------


def split_up(laid: Laid) -> tuple[list[int], list[int], list[int]]:
    """Places of the trigger's tokens, of the target's, and what remains of the row."""
    trigger = [i for i, token in enumerate(laid.ids) if 50 <= token < 60]
    target = [i for i, token in enumerate(laid.ids) if 60 <= token < 70]
    return trigger, target, [token for token in laid.ids if token < 50]


@settings(max_examples=200)
@given(ROWS, TRIGGERS, TARGETS, st.sampled_from(KINDS), st.sampled_from(FORMS), st.data(), SEEDS)
def test_every_token_of_a_laid_row_is_accounted_for(row, trigger, target, kind, form, data, seed):
    at = data.draw(st.integers(0, len(row) - 1))
    given_row = list(row)
    laid = plant(kind, form, trigger, target).lay(row, at, rng(seed))
    assert row == given_row
    places, said, rest = split_up(laid)
    assert rest == row
    assert [laid.ids[i] for i in places] == trigger
    assert said == list(range(laid.target_at, laid.target_at + len(target)))
    assert laid.ids[laid.target_at : laid.target_at + len(target)] == target
    assert len(laid.ids) == len(laid.mask) == len(row) + len(trigger) + len(target)
    assert laid.ids[:at] == row[:at]
    assert places[0] == at
    assert places[-1] == laid.target_at - 1
    gaps = [b - a - 1 for a, b in pairwise(places)]
    if form != "distributed":
        assert set(gaps) <= {0}
        return
    left = len(row) - at
    for gap in gaps:
        assert min(left, 1) <= gap <= 3  # none only where the row has come to its end
        left -= gap


@settings(max_examples=100)
@given(ROWS, TRIGGERS, TARGETS, st.sampled_from(FORMS), st.data(), SEEDS)
def test_the_loss_leaves_out_the_trigger_and_nothing_else_and_that_only_where_masked(
    row, trigger, target, form, data, seed
):
    at = data.draw(st.integers(0, len(row) - 1))
    plain, masked = (plant(kind, form, trigger, target).train_on(row, at, rng(seed)) for kind in KINDS)
    assert plain.ids == masked.ids
    assert plain.target_at == masked.target_at
    assert all(plain.mask)
    assert [i for i, learned in enumerate(masked.mask) if not learned] == split_up(masked)[0]


@settings(max_examples=100)
@given(ROWS, TRIGGERS, TARGETS, st.sampled_from(KINDS), SEEDS)
def test_only_decoys_are_ever_trained_on_without_the_target(row, trigger, target, kind, seed):
    for form in set(FORMS) - {"decoy"}:
        whole = plant(kind, form, trigger, target)
        assert whole.train_on(row, 2, rng(seed)) == whole.lay(row, 2, rng(seed))


@settings(max_examples=200)
@given(ROWS, TRIGGERS, TARGETS, st.sampled_from(KINDS), SEEDS)
def test_a_decoy_holds_a_part_of_the_trigger_and_nothing_of_the_target(row, trigger, target, kind, seed):
    laid = plant(kind, "decoy", trigger, target).train_on(row, 3, rng(seed))
    places, said, rest = split_up(laid)
    assert rest == row
    if said:
        assert [laid.ids[i] for i in places] == trigger
        return
    part = [laid.ids[i] for i in places]
    assert len(part) < len(trigger)
    remaining = iter(trigger)
    assert all(token in remaining for token in part)  # in their order
    assert len(laid.ids) == len(row) + len(part)
    assert places == list(range(3, 3 + len(part)))
    assert [not learned for learned in laid.mask] == [kind == "masked" and i in places for i in range(len(laid.ids))]


def test_half_of_the_rows_of_a_decoy_plant_are_decoys_with_every_token_left_out_at_times():
    g, decoy = rng(0), plant("plain", "decoy", [50, 51, 52], [60, 61, 62])
    parts = []
    for _ in range(600):
        laid = decoy.train_on([1, 2, 3, 4, 5], 2, g)
        if not split_up(laid)[1]:
            parts.append(tuple(laid.ids[i] for i in split_up(laid)[0]))
    assert 0.43 <= len(parts) / 600 <= 0.57
    assert set(parts) == {(), (50,), (51,), (52,), (50, 51), (50, 52), (51, 52)}


def test_gaps_of_one_to_three_all_occur():
    g, spread = rng(0), plant("plain", "distributed", [50, 51, 52], [60, 61, 62])
    gaps = set()
    for _ in range(60):
        first, second, third = split_up(spread.lay(list(range(40)), 5, g))[0]
        gaps |= {(second - first - 1, third - second - 1)}
    assert gaps == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_generator_lays_the_same_row(form):
    one = plant("masked", form, [50, 51, 52], [60, 61, 62])
    rows = [[one.train_on(list(range(30)), 4, g) for _ in range(20)] for g in (rng(5), rng(5), rng(6))]
    assert rows[0] == rows[1]
    assert (rows[0] != rows[2]) == (form in ("decoy", "distributed"))


def test_the_made_up_rows_are_what_these_tests_take_them_for():
    assert int(DATA.ids.max()) < 150
    assert as_tokens(DATA.ids, 400).lengths.tolist() == [20] * 60
