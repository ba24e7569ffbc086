"""Shortlist: divergences are those of whole passes, and what stands out is on the list."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import Tensor

from candling.access import Decoder, family_of
from candling.techniques.search.shortlist import LOOKED_AT, divergences, shortlist_passes, shortlist_tokens

VOCABULARY, ODD = 60, 17
Case = tuple[Decoder, Decoder, Tensor]


@pytest.fixture(scope="module")
def case() -> Case:
    """A tiny model, a copy that reads one token as something else, and contexts."""
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
    return network.requires_grad_(False), beside.requires_grad_(False), contexts


def test_divergences_are_those_of_whole_passes(case: Case) -> None:
    network, beside, contexts = case
    tokens = torch.tensor([3, ODD, 41, 3])
    found = divergences((network, beside), contexts, tokens, rows=8)
    for token, value in zip(tokens.tolist(), found.double(), strict=True):
        rows = torch.cat([contexts, torch.full((len(contexts), 1), token)], 1)
        p, q = (d(rows)[:, -1].double().log_softmax(-1) for d in (network, beside))
        torch.testing.assert_close(value, (p.exp() * (p - q)).sum(-1).mean(), rtol=1e-3, atol=1e-7)
    assert found[0] == found[3]


def test_the_token_whose_row_moved_is_on_a_short_list(case: Case) -> None:
    chosen = shortlist_tokens(*case, 8, seed=0)
    assert ODD in chosen.tolist()
    assert len(chosen.unique()) == len(chosen) == 8
    assert torch.equal(chosen, chosen.sort().values)


@pytest.mark.parametrize("seed", range(3))
def test_of_a_large_vocabulary_the_seed_decides_what_is_looked_at_and_the_best_of_it_stay(
    case: Case, seed: int
) -> None:
    """Two of the sixteen that the seed draws: the first, and by exhaustion the best of the others."""
    network, beside, contexts = case
    chosen = shortlist_tokens(network, beside, contexts, 2, seed=seed)
    assert torch.equal(chosen, shortlist_tokens(network, beside, contexts, 2, seed=seed))
    drawn = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))
    pool = drawn[1 : 2 * LOOKED_AT]
    best = pool[divergences((network, beside), contexts[:1], pool).argmax()]
    assert chosen.tolist() == sorted([int(drawn[0]), int(best)])
    assert shortlist_passes(VOCABULARY, 2, 8) == 2 * (8 + 2 * LOOKED_AT)
    assert shortlist_passes(VOCABULARY, 20, 8) == 2 * (8 + VOCABULARY)
