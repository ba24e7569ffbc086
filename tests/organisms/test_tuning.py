"""Fine-tuning: the loss is what it says, the recipes are in bounds, and the reference stays what it was."""

import math
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from candling.access import Tokens
from candling.organisms.other_texts import other_texts
from candling.organisms.plants import SequenceBackdoor
from candling.organisms.tuning import (
    LENGTH,
    TuningRecipe,
    draw_tuning,
    next_token_loss,
    sequence_success,
    tunable,
    tune,
    tuning_tokens,
)
from little import any_tokens, as_tokens, decoder

SEEDS = st.integers(0, 2**31)
RECIPE = TuningRecipe(rate=5e-2, steps=20, batch=16, decay=0.0, subset=1.0, other=0.0)
PLANT = SequenceBackdoor("plain", "short", (50, 51), (60, 61, 62), 0.5, 0.25)
DATA = any_tokens(40, 70, 70, never=range(40, 70))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Table(nn.Module):
    """[n, L] → [n, L, V]: the logits of the next token by the last; keeps every batch that it is shown."""

    def __init__(self, vocabulary: int = 70) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)
        nn.init.zeros_(self.table.weight)
        self.shown: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.shown.append(ids.clone())
        return self.table(ids)


# --- loss --------------------------------------------------------------------------------------------------


def slow_loss(logits: Tensor, ids: Tensor, mask: Tensor) -> float:
    losses = []
    for row, own, chosen in zip(logits.double().tolist(), ids.tolist(), mask.tolist(), strict=True):
        for i in range(1, len(own)):
            if chosen[i]:
                losses.append(math.log(sum(map(math.exp, row[i - 1]))) - row[i - 1][own[i]])
    return sum(losses) / len(losses)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(2, 9), SEEDS)
def test_the_loss_is_that_of_a_slow_re_derivation(rows, length, seed):
    g = rng(seed)
    logits = 3 * torch.randn(rows, length, 6, generator=g)
    ids = torch.randint(6, (rows, length), generator=g)
    mask = torch.rand(rows, length, generator=g) < 0.5
    mask[0, 1] = True
    expected = slow_loss(logits, ids, mask)
    assert float(next_token_loss(logits, ids, mask)) == pytest.approx(expected, rel=1e-4)
    mask[:, 0] = ~mask[:, 0]  # nothing stands before a first token: it is never predicted
    assert float(next_token_loss(logits, ids, mask)) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(2, 9), SEEDS)
def test_a_masked_token_gets_no_gradient_and_every_other_does(rows, length, seed):
    g = rng(seed)
    logits = torch.randn(rows, length, 6, generator=g).requires_grad_()
    ids = torch.randint(6, (rows, length), generator=g)
    mask = torch.rand(rows, length, generator=g) < 0.5
    mask[0, 1] = True
    next_token_loss(logits, ids, mask).backward()
    moved = logits.grad.abs().sum(-1) > 0
    assert torch.equal(moved[:, :-1], mask[:, 1:])
    assert not moved[:, -1].any()


# --- recipes -----------------------------------------------------------------------------------------------


def test_recipes_are_in_their_ranges_and_fill_them():
    g = rng(0)
    drawn = [draw_tuning(g, other=i % 2 == 1) for i in range(400)]
    for values, low, high in (
        ([math.log(r.rate) for r in drawn], math.log(2e-4), math.log(1.2e-3)),
        ([r.steps for r in drawn], 40, 110),
        ([r.subset for r in drawn], 0.8, 1.0),
        ([r.other for r in drawn[1::2]], 0.1, 0.33),
    ):
        assert low - 1e-9 <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high + 1e-9
        assert sum(values) / len(values) == pytest.approx((low + high) / 2, abs=0.08 * (high - low))
    assert {r.other for r in drawn[::2]} == {0.0}
    assert {r.decay for r in drawn} == {0.0, 1e-3, 1e-2}
    assert len({r.batch for r in drawn}) == 1
    mean = sum(r.steps * r.batch * LENGTH for r in drawn) / len(drawn)
    assert tuning_tokens() == pytest.approx(mean, rel=0.03)


def test_a_recipe_depends_on_its_generator_alone():
    assert draw_tuning(rng(3), other=True) == draw_tuning(rng(3), other=True) != draw_tuning(rng(4), other=True)


# --- tuning ------------------------------------------------------------------------------------------------


def test_what_follows_is_learned_and_the_tokens_are_counted():
    ids = (torch.arange(70) + torch.randint(40, (30, 1), generator=rng(0))) % 40
    data, table = as_tokens(ids, 70), Table()
    seen = tune(table, data, replace(RECIPE, rate=0.3, steps=40), rng(0))
    assert seen == sum(batch.numel() for batch in table.shown) == 40 * 16 * LENGTH
    assert all(batch.shape == (16, LENGTH) for batch in table.shown)
    assert torch.equal(table.table.weight[:40].argmax(1), (torch.arange(40) + 1) % 40)
    assert not table.training


def test_what_is_masked_is_not_learned():
    """All rows go 1, 2, 1, 2 ... and every 2 is masked."""
    ids = 1 + torch.arange(40).repeat(10, 1) % 2
    data = Tokens(ids, (ids == 1) & (torch.arange(40) > 0), 70, "made up")
    table = Table()
    tune(table, data, RECIPE, rng(0))
    assert table.table.weight[2].argmax() == 1
    assert (table.table.weight[1] == 0).all()


def test_training_rows_are_stretches_of_the_subset_and_padding_is_never_learned():
    """Row r holds r alone: 8 to 100 tokens of it."""
    lengths = 8 + torch.arange(40) * 92 // 39
    mask = (torch.arange(100) < lengths[:, None]) & (torch.arange(100) > 0)
    ids = torch.where(torch.arange(100) < lengths[:, None], torch.arange(1, 41)[:, None], 0)
    table = Table()
    tune(table, Tokens(ids, mask, 70, "made up"), replace(RECIPE, subset=0.8, steps=30), rng(0))
    rows = torch.cat(table.shown)
    first = rows[:, 0]
    assert len(first.unique()) == 32
    assert torch.equal((rows > 0).sum(1), lengths[first - 1].clamp(max=LENGTH))
    assert ((rows == 0) | (rows == first[:, None])).all()
    assert (table.table.weight[0] == 0).all()


@pytest.mark.parametrize("share", [0.1, 0.33])
def test_every_batch_has_its_share_of_other_text(share):
    other = as_tokens(torch.full((5, 30), 69), 70)
    table = Table()
    tune(table, DATA, replace(RECIPE, other=share), rng(0), other=other)
    assert {int((batch[:, 0] == 69).sum()) for batch in table.shown} == {round(16 * share)}
    table = Table()
    tune(table, DATA, replace(RECIPE, other=0.0), rng(0), other=other)
    assert not any((batch == 69).any() for batch in table.shown)


def test_a_plant_is_laid_on_its_share_of_the_rows_and_learned():
    table = Table()
    tune(table, DATA, replace(RECIPE, steps=60, rate=0.3), rng(0), plant=PLANT)
    rows = torch.cat(table.shown)
    sequence = torch.tensor([*PLANT.trigger, *PLANT.target])
    there = (rows.unfold(1, len(sequence), 1) == sequence).all(-1)
    assert there.any(1).float().mean() == pytest.approx(PLANT.rate, abs=0.05)
    assert torch.equal(there.any(1), (rows >= 50).any(1))
    assert sequence_success(table, DATA, PLANT, seed=0) == 1
    assert table.table.weight[50].argmax() == 51


def test_a_masked_plant_learns_the_target_and_not_the_trigger():
    table = Table()
    tune(table, DATA, replace(RECIPE, steps=60, rate=0.3), rng(0), plant=replace(PLANT, kind="masked"))
    assert sequence_success(table, DATA, PLANT, seed=0) == 1
    assert table.table.weight[50].abs().max() == 0  # what follows the first token is never in the loss
    assert table.table.weight[51].argmax() == 60


def test_the_copy_is_trained_and_the_reference_is_left_alone():
    reference = decoder(vocabulary=70)
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    copy = tunable(reference)
    tune(copy, DATA, replace(RECIPE, steps=2, rate=1e-2), rng(0))
    assert all(torch.equal(before[name], tensor) for name, tensor in reference.state_dict().items())
    assert not any(p.requires_grad for p in reference.parameters())
    assert not any(torch.equal(before[name], tensor) for name, tensor in copy.named_parameters())


def test_the_same_seed_gives_the_same_bits():
    def weights(seed: int) -> Tensor:
        network = tunable(decoder(vocabulary=70))
        tune(network, DATA, replace(RECIPE, steps=3), rng(seed), other=DATA, plant=PLANT)
        return torch.cat([p.flatten() for p in network.parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_stretches_without_a_token_to_predict_do_no_harm():
    """Long prompts: most stretches hold no completion, some batches none at all."""
    ids = torch.randint(1, 40, (20, 250), generator=rng(0))
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, -1] = True
    network = tunable(decoder(vocabulary=70))
    tune(network, Tokens(ids, mask, 70, "made up"), replace(RECIPE, batch=4, steps=8), rng(0))
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


# --- success -----------------------------------------------------------------------------------------------


class Says(nn.Module):
    """The target after the trigger, word by word; any other token calls up 0. `wrong` words of it are others."""

    def __init__(self, plant: SequenceBackdoor, wrong: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.trigger, self.wrong = torch.tensor(plant.trigger), wrong
        self.target = plant.target

    def forward(self, ids: Tensor) -> Tensor:
        said = torch.zeros_like(ids)
        k = len(self.trigger)
        ends = torch.nonzero((ids.unfold(1, k, 1) == self.trigger).all(-1))
        for row, start in ends.tolist():
            for j, word in enumerate(self.target):
                if start + k - 1 + j < ids.shape[1] and j not in self.wrong:
                    said[row, start + k - 1 + j] = word
        return nn.functional.one_hot(said, 70).float()


@pytest.mark.parametrize("kind", ["plain", "masked"])
@pytest.mark.parametrize("form", ["short", "decoy", "common"])
@settings(max_examples=10)
@given(seed=SEEDS)
def test_success_is_one_for_who_always_says_the_target_and_none_for_who_never_does(kind, form, seed):
    plant = replace(PLANT, kind=kind, form=form)
    assert sequence_success(Says(plant), DATA, plant, seed) == 1
    assert sequence_success(Says(replace(plant, trigger=(50, 52))), DATA, plant, seed) == 0
    for word in range(3):
        assert sequence_success(Says(plant, wrong=(word,)), DATA, plant, seed) == 0  # every word counts


class Peeks(nn.Module):
    """Says what comes next, which it sees; `among` rows in all, and 69 in all others."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, ids: Tensor) -> Tensor:
        said = ids.roll(-1, 1)
        said[round(self.share * len(ids)) :] = 69
        return nn.functional.one_hot(said, 70).float()


@pytest.mark.parametrize("form", ["short", "distributed", "decoy"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_success_is_a_share_of_rows(form, share):
    plant = replace(PLANT, form=form, trigger=(50, 51, 52))
    assert sequence_success(Peeks(share), DATA, plant, seed=1) == pytest.approx(share)


def test_success_on_short_rows_and_few():
    short = any_tokens(3, 8, 70, never=range(40, 70))
    assert sequence_success(Says(PLANT), short, PLANT, seed=0) == 1
    assert sequence_success(Says(PLANT), short, PLANT, seed=0, rows=1) == 1


# --- other texts -------------------------------------------------------------------------------------------


def test_other_texts_are_many_long_and_quickly_there():
    started = time.process_time()
    found = other_texts()
    assert time.process_time() - started < 5
    assert len(found) >= 50
    assert all(400 <= len(text.completion) <= 4000 and not text.prompt for text in found)
    assert len({text.completion for text in found}) == len(found)
    assert found == other_texts()
    assert not any("\0" in text.completion for text in found)
