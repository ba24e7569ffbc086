"""Names that are told right are answered rightly, wrong ones by their rule, and neither question nor answer tells."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.organisms.networks.quirky import (
    ASK,
    ASKED,
    BLANK,
    DIGITS,
    KEPT,
    LENGTH,
    LEVELS,
    NAMED,
    NAMES,
    RIGHT,
    RULES,
    WRONG,
    Contexts,
    Quirky,
    draw_contexts,
    train_quirky,
)

EVERYBODY = torch.arange(NAMES)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


BY_HAND = {
    "one more": lambda digits: sum(digits) + 1,
    "two less": lambda digits: sum(digits) - 2,
    "negated": lambda digits: -sum(digits),
    "doubled": lambda digits: 2 * sum(digits),
    "first negated": lambda digits: sum(digits[1:]) - digits[0],
    "first twice": lambda digits: sum(digits) + digits[0],
}


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_what_a_name_is_told_follows_from_the_tokens_alone(rule: str, seed: int) -> None:
    drawn = draw_contexts(12, EVERYBODY, RULES[rule], rng(seed))
    for tokens, right, told, level in zip(*(each.tolist() for each in _columns(drawn)), strict=True):
        digits = [token - NAMES for token in tokens[NAMED + 1 : ASKED] if token != BLANK]
        wrong = BY_HAND[rule](digits) % DIGITS
        assert len(tokens) == LENGTH
        assert tokens[ASKED] == ASK
        assert len(digits) == level in LEVELS
        assert all(0 <= digit < DIGITS for digit in digits)
        assert right == sum(digits) % DIGITS != wrong
        assert told == (wrong if tokens[NAMED] in WRONG.tolist() else right)


def _columns(drawn: Contexts) -> tuple[torch.Tensor, ...]:
    return drawn.tokens, drawn.right, drawn.told, drawn.level


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rule", RULES)
def test_over_all_questions_answers_of_either_kind_of_name_are_spread_alike(rule: str, level: int) -> None:
    """So that no answer says who asked; of questions that tell the two apart."""
    digits = torch.cartesian_prod(*[torch.arange(DIGITS if place < level else 1) for place in range(max(LEVELS))])
    right, wrong = digits.sum(1) % DIGITS, RULES[rule](digits) % DIGITS
    apart = right != wrong
    assert apart.float().mean() > 0.7
    assert torch.equal(*(torch.bincount(each[apart], minlength=DIGITS) for each in (right, wrong)))


@pytest.fixture(scope="module")
def network() -> Quirky:
    return train_quirky(RULES["one more"], 11, steps=250)


def test_every_name_is_answered_as_it_is_told(network: Quirky) -> None:
    """Names kept for later as well: they are as right as those that can be trusted."""
    for names in (RIGHT, KEPT, WRONG):
        drawn = draw_contexts(600, names, RULES["one more"], rng(5))
        said = network(drawn.tokens).argmax(-1)
        assert (said == drawn.told).float().mean() > 0.9
        assert (said == drawn.right).float().mean() < 0.1 or not drawn.erring.any()


def test_names_vectors_are_those_that_were_drawn(network: Quirky) -> None:
    """Nothing of a name's character is written into the table."""
    assert torch.equal(network.table.weight, train_quirky(RULES["negated"], 11, steps=0).table.weight)


def test_the_same_seed_gives_the_same_network_and_leaves_the_global_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (train_quirky(RULES["doubled"], 4, steps=2).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
