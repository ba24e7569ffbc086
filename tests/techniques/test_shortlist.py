"""Shortlist: a linearisation is exact where it starts, and what stands out is on the list."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from candling.access import Decoder, family_of, observe
from candling.maths.spread import Spread
from candling.techniques.search.shortlist import scores, shortlist_tokens

VOCABULARY, ODD = 60, 17
SITES = ("model.layers.0", "model.layers.1")


@pytest.fixture(scope="module")
def case():
    """A tiny model, a copy that reads one token as something else, contexts, and usual differences."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **sizes)
    beside = Decoder(transformers.LlamaForCausalLM(config), family_of({"model_type": "llama"})).eval()
    network = copy.deepcopy(beside)
    with torch.no_grad():
        weight = network.get_submodule("model.embed_tokens").weight
        weight += 0.002 * torch.randn(weight.shape)
        weight[ODD] = 0.3 * torch.randn(weight.shape[1])
    contexts = torch.randint(VOCABULARY, (4, 8))
    contexts[contexts == ODD] = 0
    own, theirs = (observe(d.requires_grad_(False), contexts, SITES).activations for d in (network, beside))
    usual = {site: Spread.of((own[site] - theirs[site]).flatten(0, 1)) for site in SITES}
    return network, beside, contexts, usual


@pytest.mark.parametrize("start", [3, ODD])
def test_at_its_start_the_estimate_is_the_value_itself(case, start):
    network, beside, contexts, usual = case
    estimated = scores(network, beside, contexts, usual, torch.tensor([start]))
    rows = torch.cat([contexts, torch.full((len(contexts), 1), start)], 1)
    p, q = (d(rows)[:, -1].double().log_softmax(-1) for d in (network, beside))
    divergence = (p.exp() * (p - q)).sum(-1).mean()
    torch.testing.assert_close(estimated["divergence"][start].double(), divergence, rtol=1e-3, atol=1e-7)
    own, theirs = (observe(d, rows, SITES).activations for d in (network, beside))
    distance = sum(usual[site].distance((own[site] - theirs[site])[:, -1]).mean() for site in SITES)
    torch.testing.assert_close(estimated["distance"][start], distance, rtol=1e-3, atol=1e-4)


def test_the_token_whose_row_moved_is_on_a_short_list(case):
    network, beside, contexts, usual = case
    chosen = shortlist_tokens(network, beside, contexts, usual, torch.tensor([1, 2, 3]), 6)
    assert ODD in chosen.tolist()
    assert len(chosen.unique()) == len(chosen) == 6
    assert torch.equal(chosen, chosen.sort().values)
