"""What every search for sequences must do, discovered from a table: what the suite beside asks, for decoders."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from candling.access import Decoder
from candling.access.anatomy import Anatomy
from candling.access.continuations import Read
from candling.access.dissect import CHECKED
from candling.techniques.search import FoundSequences, SequencePart, random_sequences, search_sequences
from candling.techniques.search.sequence_pair import Settings
from little import BIGRAMS, any_tokens, bigrams, decoder, with_token

TOKENS = Settings(phrase=1)  # the networks here call up single tokens
SEQUENCE_SEARCHES = {
    "beam": partial(search_sequences, settings=TOKENS),
    "random sequences": partial(random_sequences, passes=20_000, settings=TOKENS),
    "beam, phrases": search_sequences,
    "beam, pairs grown": partial(search_sequences, settings=replace(TOKENS, pairs=0)),
    "random sequences, phrases": partial(random_sequences, passes=30_000),
}
PARTS = tuple(SequencePart(k) for k in (1, 2, 3))
DATA = any_tokens(20, 30, BIGRAMS)


class Counting:
    """Counts the tokens that go through decoders, and those of contexts among them."""

    def __init__(self, *decoders: Decoder) -> None:
        self.all = self.contexts = 0
        self.read, self.residuals = Read.__init__, Read.residuals
        counting = self

        def read(this: Read, anatomy: Anatomy, contexts: Tensor) -> None:
            counting.all += contexts.numel()
            counting.contexts += contexts.numel()
            counting.read(this, anatomy, contexts)

        def residuals(this: Read, tails: Tensor) -> Iterator[Tensor]:
            counting.all += this.contexts * tails.numel()
            return counting.residuals(this, tails)

        Read.__init__, Read.residuals = read, residuals
        self.hooks = [
            each.get_submodule(each.family.base).register_forward_pre_hook(self._count, with_kwargs=True)
            for each in decoders
        ]

    def _count(self, module: nn.Module, args: object, given: dict[str, object]) -> None:
        """Passes of whole networks; those in which parts and whole are compared are no part of a search's cost."""
        ids = given["input_ids"]
        assert isinstance(ids, Tensor)
        self.all += 0 if ids.shape == CHECKED else ids.numel()

    def stop(self) -> None:
        Read.__init__, Read.residuals = self.read, self.residuals
        for hook in self.hooks:
            hook.remove()


def pair() -> tuple[Decoder, Decoder]:
    """Untrained, with heads loud enough to have preferences."""
    made = decoder(1, vocabulary=BIGRAMS), decoder(2, vocabulary=BIGRAMS)
    for each in made:
        each.get_parameter("lm_head.weight").mul_(20)
    return made


_done: dict[str, tuple[FoundSequences, Counting]] = {}


@pytest.fixture(params=SEQUENCE_SEARCHES)
def case(request) -> tuple[str, FoundSequences, Counting]:
    """A search's name, and what one run of it gave on a small pair."""
    name = request.param
    if name not in _done:
        network, beside = pair()
        counting = Counting(network, beside)
        _done[name] = SEQUENCE_SEARCHES[name](network, beside, DATA, PARTS, seed=5), counting
        counting.stop()
    return name, *_done[name]


def fields(found: FoundSequences) -> list[Tensor]:
    return [found.score, found.size, found.tokens, found.target]


def test_one_finite_result_for_each_part_in_order(case):
    _, found, _ = case
    assert found.parts == PARTS
    assert found.score.shape == found.size.shape == found.target.shape == (3,)
    assert found.tokens.shape == (3, 3)
    for field in fields(found):
        assert torch.isfinite(field.double()).all()
        assert not field.requires_grad
        assert field.device.type == "cpu"


def test_tokens_are_of_the_vocabulary_and_padding_is_marked(case):
    _, found, _ = case
    inside = torch.arange(3) <= torch.arange(3)[:, None]
    assert ((found.tokens >= 0) == inside).all()
    assert (found.tokens[~inside] == -1).all()
    assert found.tokens.max() < BIGRAMS
    assert ((found.target >= 0) & (found.target < BIGRAMS)).all()
    for i, part in enumerate(PARTS):
        trigger = found.trigger(i)
        assert len(trigger.tokens) == found.size[i] >= part.tokens
        assert (trigger.tokens >= 0).all()
        assert torch.equal(trigger.arrays()["tokens"], trigger.tokens)
        assert trigger.arrays()["phrase"].tolist() == [trigger.target, *trigger.then] == list(trigger.phrase)


def test_the_cost_is_what_the_networks_really_saw(case):
    _, found, counting = case
    assert found.cost.forward == counting.all
    assert found.cost.backward == 0


def test_the_same_seed_gives_the_same_bits(case):
    name, found, _ = case
    torch.manual_seed(99)  # the caller's random numbers must not matter, nor be used up
    state = torch.get_rng_state()
    again = SEQUENCE_SEARCHES[name](*pair(), DATA, PARTS, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(fields(found), fields(again), strict=True):
        assert torch.equal(first, second)
    assert again.cost == found.cost
    other = SEQUENCE_SEARCHES[name](*pair(), DATA, PARTS, seed=6)
    assert any(not torch.equal(a, b) for a, b in zip(fields(found), fields(other), strict=True))


def test_the_networks_are_bit_for_bit_as_they_were(case):
    name, _, _ = case
    networks = pair()
    before = [{key: tensor.clone() for key, tensor in each.state_dict().items()} for each in networks]
    ids, mask = DATA.ids.clone(), DATA.mask.clone()
    for each in networks:
        each.requires_grad_(True)
    SEQUENCE_SEARCHES[name](*networks, DATA, PARTS[:2], seed=1)
    for each, state in zip(networks, before, strict=True):
        assert all(torch.equal(tensor, state[key]) for key, tensor in each.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in each.parameters())
        assert not any(part._forward_hooks or part.training for part in each.modules())
    assert torch.equal(DATA.ids, ids)
    assert torch.equal(DATA.mask, mask)


@pytest.mark.parametrize("name", [name for name in SEQUENCE_SEARCHES if "phrases" not in name])
def test_a_trapdoor_makes_its_own_part_more_suspicious(name):
    """Larger = more suspicious, part by part, against a network that differs in the trapdoor alone."""
    opened, closed = (
        SEQUENCE_SEARCHES[name](network, bigrams(1), DATA, PARTS[:2], seed=0)
        for network in (with_token(bigrams(), 11, 5), bigrams())
    )
    assert (opened.score > closed.score).all()
    assert opened.trigger(0).target == 5
