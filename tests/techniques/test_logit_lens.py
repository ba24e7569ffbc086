"""The logit lens against the network's own blocks, and where it must be blind."""

from dataclasses import replace

import pytest
import torch
from drawn_decoders import VOCABULARY, decoder, prompts
from torch.nn.functional import kl_div

from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm
from candling.errors import InputError
from candling.techniques.locate.logit_lens import logit_lens


def test_every_row_is_a_network_that_stops_there() -> None:
    whole, its = decoder(layers=3), prompts()
    lens = logit_lens(whole, its.clean, its.last, its.answer)
    assert lens.labels == ("embed", *(f"blocks.{i}.resid_post" for i in range(3)))
    rows = torch.arange(len(its))
    final = whole(its.clean)[rows, its.last].log_softmax(-1)
    for depth in range(4):
        logits = replace(whole, blocks=whole.blocks[:depth])(its.clean)[rows, its.last]
        assert torch.equal(lens.top[depth], logits.argmax(-1))
        said = logits.log_softmax(-1)
        truth = kl_div(said, final, reduction="none", log_target=True).sum(-1)
        torch.testing.assert_close(lens.kl[depth], truth)
        order = logits.argsort(-1, descending=True)
        assert torch.equal(order[rows, lens.rank[depth]], its.answer)
    assert not lens.kl[-1].any()
    assert (lens.kl[:-1] > 0).all()
    assert float(lens.agreement[-1]) == 1
    assert lens.cost.forward == len(its)


def test_the_lens_is_blind_to_a_basis_that_the_last_block_alone_undoes() -> None:
    """The answer is there from the start, in a basis of its own: known failure."""
    half = VOCABULARY
    nothing = torch.zeros(1, 1, 2 * half)
    idle = Attention(nothing, nothing, nothing, nothing, 1.0)
    into, out = torch.zeros(half, 2 * half), torch.zeros(2 * half, half)
    into[:, :half], out[half:] = torch.eye(half), torch.eye(half)
    embedding, unembedding = torch.zeros(2, half, 2 * half)
    embedding[:, :half], unembedding[:, half:] = torch.eye(half), 9 * torch.eye(half)
    quiet = MLP(torch.zeros_like(into), torch.zeros_like(out), torch.relu)
    blocks = [Block(idle, Norm(), mlp, Norm()) for mlp in (quiet, quiet, MLP(into, out, torch.relu))]
    tokens = torch.arange(half)[:, None].repeat(1, 2)
    last = torch.ones(half, dtype=torch.int64)
    lens = logit_lens(Anatomy(embedding, tuple(blocks), Norm(), unembedding), tokens, last, tokens[:, 0])
    assert (lens.top[-1] == tokens[:, 0]).all()
    assert (lens.agreement[:-1] <= 1 / half + 1e-9).all()
    assert (lens.kl[:-1] > 1).all()
    assert not lens.rank[-1].any()


def test_rows_that_do_not_fit_are_refused() -> None:
    its = prompts()
    with pytest.raises(InputError, match="prompts"):
        logit_lens(decoder(), its.clean, its.last[:1], its.answer)
