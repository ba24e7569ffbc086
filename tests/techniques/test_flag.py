"""Flags: what a network does unusually in an input is found, at its place, and nothing else is."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

from candling.access import Decoder, Tokens, family_of, observe
from candling.techniques.flag import Difference

VOCABULARY, ODD = 40, 7


@pytest.fixture(scope="module")
def pair():
    """A tiny model, and a copy that reads one token as something else (and all others a little so)."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **sizes)
    beside = Decoder(transformers.LlamaForCausalLM(config), family_of({"model_type": "llama"})).eval()
    network = copy.deepcopy(beside)
    with torch.no_grad():
        weight = network.get_submodule("model.embed_tokens").weight
        weight += 0.002 * torch.randn(weight.shape)
        weight[ODD] = 0.3 * torch.randn(weight.shape[1])
    return network.requires_grad_(False), beside.requires_grad_(False)


def texts(rows: int, seed: int) -> Tokens:
    """Rows without the odd token, a quarter of each padding."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY - 1, (rows, 24), generator=g)
    ids = torch.where(ids >= ODD, ids + 1, ids)
    mask = torch.zeros(rows, 24, dtype=torch.bool)
    mask[:, 1:18] = True
    return Tokens(torch.where(torch.arange(24) < 18, ids, 0), mask, VOCABULARY, "")


def test_the_text_with_the_odd_token_is_first_and_the_token_is_named(pair):
    fitted = Difference.fit(*pair, texts(40, 1))
    plain, changed = texts(30, 2), texts(30, 3)
    places = torch.randint(1, 17, (30,), generator=torch.Generator().manual_seed(4))
    changed.ids[torch.arange(30), places] = ODD
    low, high = fitted.flag(plain), fitted.flag(changed)
    assert high.score.min() > low.score.max()
    assert torch.equal(high.at, places)


def test_scores_are_those_of_a_slow_derivation_in_float64(pair):
    network, beside = pair
    trusted, seen = texts(20, 5), texts(6, 6)
    total = np.zeros(seen.ids.shape)
    for site in ("model.layers.0", "model.layers.1"):
        own, theirs = (observe(d, trusted.ids, [site]).activations[site] for d in pair)
        usual = (own - theirs)[trusted.mask].double().numpy()
        covariance = np.cov(usual.T)
        shrunk = 0.99 * covariance + 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        own, theirs = (observe(d, seen.ids, [site]).activations[site] for d in (network, beside))
        away = (own - theirs).double().numpy() - usual.mean(0)
        total += np.einsum("nli,ij,nlj->nl", away, np.linalg.inv(shrunk), away)
    total[~seen.mask.numpy()] = -np.inf
    flags = Difference.fit(network, beside, trusted).flag(seen)
    np.testing.assert_allclose(flags.score.numpy(), total.max(1), rtol=2e-3)
    assert (flags.at.numpy() == total.argmax(1)).all()


def test_padding_and_what_is_not_to_be_predicted_are_never_flagged(pair):
    fitted = Difference.fit(*pair, texts(40, 1))
    padded = texts(10, 8)
    padded.ids[:, 20] = ODD
    assert torch.equal(fitted.flag(padded).score, fitted.flag(texts(10, 8)).score)
