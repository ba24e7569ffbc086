"""Attention alone learns induction, and its weights show by which way."""

from functools import cache

import pytest
import torch

from candling.access.anatomy import Anatomy
from candling.organisms.networks.attention_only import HEADS, looks_back, train_attention_only
from candling.organisms.networks.induction import repeat_accuracy, repeat_pairs, repeated
from candling.techniques.locate.decomposition import composition


@cache
def trained(seed: int = 3) -> Anatomy:
    return train_attention_only(seed)


def rows(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    return repeated(n, torch.Generator().manual_seed(50))


def test_it_learns_induction_in_seconds() -> None:
    before = torch.random.get_rng_state()
    anatomy = trained()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert repeat_accuracy(anatomy, *rows()) >= 0.99
    pairs = repeat_pairs(100, torch.Generator().manual_seed(51))
    for tokens, expected in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.wrong)):
        assert (anatomy(tokens)[torch.arange(100), pairs.last].argmax(-1) == expected).float().mean() >= 0.9


def test_its_first_layer_looks_one_back_and_its_second_behind_the_last_occurrence() -> None:
    before, after = looks_back(trained(), *rows())
    assert before[0].max() > 0.5 > 0.2 > before[1].max()
    assert after[1].max() > 0.5 > 0.2 > after[0].max()


def test_keys_of_induction_heads_read_previous_token_heads_before_all_others() -> None:
    """The first of all 16 K-compositions, by weights alone, joins heads that are so by where they look."""
    before, after = looks_back(trained(), *rows())
    found = composition(trained())
    ((writer, reader, z),) = found.best("k", 1)
    assert before[0, head(writer)] > 0.4
    assert after[1, head(reader)] > 0.4
    assert z > 3
    for slot in "qv":
        assert all(each[2] < 3 for each in found.best(slot, HEADS**2))
    untrained = composition(train_attention_only(3, steps=0))
    assert untrained.best("k", 1)[0][2] < z / 2


def head(name: str) -> int:
    return int(name.rpartition(".")[2])


def test_before_training_it_knows_nothing() -> None:
    anatomy = train_attention_only(3, steps=0)
    assert repeat_accuracy(anatomy, *rows()) < 0.2
    assert max(each.max() for each in looks_back(anatomy, *rows())) < 0.4


def test_one_seed_is_one_network() -> None:
    first, again, other = (train_attention_only(seed, steps=2).embedding for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("n", [1, 5])
def test_where_heads_look_is_a_share(n: int) -> None:
    for each in looks_back(train_attention_only(0, steps=0), *rows(n)):
        assert each.shape == (2, HEADS)
        assert each.min() >= 0
        assert each.max() <= 1
