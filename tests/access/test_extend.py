"""Cached extension: the same numbers as whole passes, in the order asked for, and nothing is changed."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import SETTINGS, VOCABULARY, network
from torch import Tensor

from candling.access import Decoder, family_of, observe
from candling.access.extend import Extended, chance, extend

KINDS = sorted(SETTINGS)
DECODERS = {kind: Decoder(network(kind), family_of({"model_type": kind})).eval() for kind in KINDS}
TOLERANCE = 1e-5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def blocks(decoder: Decoder) -> list[str]:
    return [f"{decoder.family.blocks}.{i}" for i in range(2)]


def whole(decoder: Decoder, contexts: Tensor, tails: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """[contexts, tails, V] logits and states, each from a pass of its own over context and tail."""
    ids = torch.stack([torch.cat([context, tail]) for context in contexts for tail in tails])
    seen = observe(decoder, ids, blocks(decoder))
    shape = (len(contexts), len(tails))
    states = {site: state[:, -1].unflatten(0, shape) for site, state in seen.activations.items()}
    return seen.logits[:, -1].unflatten(0, shape), states


def joined(parts: list[Extended]) -> tuple[Tensor, dict[str, Tensor]]:
    states = {site: torch.cat([part.states[site] for part in parts], 1) for site in parts[0].states}
    return torch.cat([part.logits for part in parts], 1), states


@pytest.mark.parametrize("rows", [1, 7, 8, 2048])
@pytest.mark.parametrize(("length", "k"), [(1, 1), (12, 1), (12, 3), (5, 11)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_whole_passes(kind: str, length: int, k: int, rows: int) -> None:
    """Also where context and tail are longer than the window that mistral's attention slides (8)."""
    decoder = DECODERS[kind]
    contexts, tails = draw(3, length), draw(7, k, seed=1)
    logits, states = joined(list(extend(decoder, contexts, tails, sites=blocks(decoder), rows=rows)))
    expected, expected_states = whole(decoder, contexts, tails)
    assert logits.shape == (3, 7, VOCABULARY)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    assert states.keys() == expected_states.keys() == set(blocks(decoder))
    for site, state in states.items():
        torch.testing.assert_close(state, expected_states[site], atol=TOLERANCE, rtol=0)


@settings(max_examples=30)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
def test_any_shape_in_any_blocks(kind: str, count: int, length: int, m: int, k: int, rows: int, seed: int) -> None:
    decoder = DECODERS[kind]
    contexts, tails = draw(count, length, seed=seed), draw(m, k, seed=seed + 1)
    parts = list(extend(decoder, contexts, tails, rows=rows))
    logits, states = joined(parts)
    torch.testing.assert_close(logits, whole(decoder, contexts, tails)[0], atol=TOLERANCE, rtol=0)
    assert states == {}
    for part in parts:
        assert part.logits.shape[1] * count <= max(rows, count)  # a context's row is never split off
    mean = torch.cat([part.mean for part in parts])
    slow = torch.stack([row.double().exp() / row.double().exp().sum() for row in logits.flatten(0, 1)])
    torch.testing.assert_close(mean.double(), slow.unflatten(0, (count, m)).mean(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_tails_come_out_in_their_order(kind: str) -> None:
    """Turned about, the results turn about; a tail that comes twice has one result."""
    decoder = DECODERS[kind]
    contexts, tails = draw(2, 6), draw(9, 2, seed=1)
    order = torch.tensor([8, 0, 3, 3, 7, 1, 2, 6, 5, 4])
    one, other = (joined(list(extend(decoder, contexts, t, rows=6)))[0] for t in (tails, tails[order]))
    torch.testing.assert_close(other, one[:, order], atol=TOLERANCE, rtol=0)
    assert not torch.allclose(one[:, 0], one[:, 1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_changed_and_nothing_takes_a_gradient(kind: str) -> None:
    decoder = DECODERS[kind]
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    contexts, tails = draw(2, 6), draw(5, 2, seed=1)
    given_contexts, given_tails = contexts.clone(), tails.clone()
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    state = torch.get_rng_state()
    parts = list(extend(decoder, contexts, tails, sites=blocks(decoder), rows=4))
    assert torch.equal(torch.get_rng_state(), state)
    for part in parts:
        assert not any(tensor.requires_grad for tensor in (part.logits, part.mean, *part.states.values()))
    assert torch.equal(contexts, given_contexts)
    assert torch.equal(tails, given_tails)
    assert all(torch.equal(before[name], tensor) for name, tensor in decoder.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in decoder.parameters())
    assert not any(part._forward_hooks or part.training for part in decoder.modules())


def test_a_block_may_be_dropped_and_two_streams_may_alternate() -> None:
    """The cache of the contexts is nobody's to write to."""
    decoder = DECODERS["llama"]
    contexts, tails = draw(2, 6), draw(6, 2, seed=1)
    expected = whole(decoder, contexts, tails)[0]
    one, other = (extend(decoder, contexts, tails, rows=4) for _ in range(2))
    next(one)
    for i, part in enumerate(other):
        torch.testing.assert_close(part.logits, expected[:, 2 * i : 2 * i + 2], atol=TOLERANCE, rtol=0)
        if i == 0:
            following = next(one)
            torch.testing.assert_close(following.logits, expected[:, 2:4], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["gpt2"])
def test_a_decoder_in_training_mode_is_read_as_in_eval_mode(kind: str) -> None:
    decoder = Decoder(network(kind), family_of({"model_type": kind}))
    contexts, tails = draw(2, 6), draw(5, 2, seed=1)
    expected = whole(decoder.eval(), contexts, tails)[0]
    logits, _ = joined(list(extend(decoder.train(), contexts, tails)))
    assert decoder.training
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([1, 7, 2048]),
)
def test_the_chance_of_a_phrase_is_the_product_over_whole_passes(seed, kind, length, said, rows):
    contexts, tails, phrase = (draw(*shape, seed=seed + i) for i, shape in enumerate([(3, 5), (4, length), (said,)]))
    found = chance(DECODERS[kind], contexts, tails, phrase.tolist(), rows=rows)
    slow = torch.ones(3, 4, dtype=torch.float64)
    for c, m in itertools.product(range(3), range(4)):
        p = DECODERS[kind](torch.cat([contexts[c], tails[m], phrase])[None])[0].double().softmax(-1)
        for step, token in enumerate(phrase.tolist()):
            slow[c, m] *= p[5 + length + step - 1, token]
    assert torch.allclose(found.double(), slow, rtol=1e-4, atol=0)
