"""A decoder taken apart: its parts give its logits, and a wrong table is refused."""

from dataclasses import replace

import pytest
import torch
from languages import SETTINGS, VOCABULARY, network

from candling.access import FAMILIES, Decoder, family_of, observe
from candling.access.dissect import dissect
from candling.errors import InputError

KINDS = sorted(SETTINGS)


def decoder(kind: str) -> Decoder:
    return Decoder(network(kind), family_of({"model_type": kind})).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_give_the_logits_of_the_whole(kind: str) -> None:
    """Also beyond the window that mistral's attention slides (8), and in float64 to rounding."""
    whole = decoder(kind)
    tokens = torch.randint(VOCABULARY, (3, 14), generator=torch.Generator().manual_seed(1))
    taken = dissect(whole)
    assert taken.difference <= 1e-5
    torch.testing.assert_close(taken.anatomy(tokens), whole(tokens), atol=1e-5, rtol=0)
    exact = whole.double()
    torch.testing.assert_close(dissect(exact).anatomy(tokens), exact(tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_what_the_network_computes_on_the_way(kind: str) -> None:
    whole = decoder(kind)
    anatomy, family = dissect(whole).anatomy, whole.family
    tokens = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    sites = [f"{family.blocks}.1.{family.layout.attention}", f"{family.blocks}.0"]
    seen = observe(whole, tokens, sites).activations
    block = anatomy.blocks[1]
    x = anatomy.blocks[0](anatomy.embed(tokens))
    torch.testing.assert_close(x, seen[sites[1]], atol=1e-5, rtol=0)
    read = block.attention_norm(x)
    torch.testing.assert_close(block.attention(read), seen[sites[0]], atol=1e-5, rtol=0)
    by_head = block.attention.written(block.attention.mixed(read)).sum(1)
    bias = 0 if block.attention.output_bias is None else block.attention.output_bias
    torch.testing.assert_close(by_head + bias, seen[sites[0]], atol=1e-5, rtol=0)
    torch.testing.assert_close(block.attention.pattern(read).sum(-1), torch.ones(2, block.attention.heads, 9))


def test_a_table_that_does_not_fit_is_refused() -> None:
    whole = decoder("gpt_neox")
    with pytest.raises(InputError, match="differ by"):
        dissect(whole, replace(FAMILIES["gpt_neox"].layout, by_head=False))
    with pytest.raises(InputError, match="does not fit"):
        dissect(whole, FAMILIES["gpt2"].layout)


def test_nothing_of_the_network_is_copied_or_moved() -> None:
    whole = decoder("llama")
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    anatomy = dissect(whole).anatomy
    own = {parameter.untyped_storage().data_ptr() for parameter in whole.parameters()}
    parts = [anatomy.embedding, anatomy.unembedding, anatomy.blocks[0].attention.query]
    assert all(part.untyped_storage().data_ptr() in own for part in parts)
    assert all(torch.equal(before[name], value) for name, value in whole.state_dict().items())
