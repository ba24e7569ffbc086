"""One more token after many prefixes: the same numbers as whole passes, for every family."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import SETTINGS, VOCABULARY, network

from candling.access import Decoder, family_of
from candling.access.continuations import continuations
from candling.access.dissect import dissect

DECODERS = {
    kind: Decoder(network(kind), family_of({"model_type": kind})).eval().requires_grad_(False) for kind in SETTINGS
}


@pytest.mark.parametrize("kind", sorted(SETTINGS))
@settings(max_examples=8, deadline=None)
@given(
    prefixes=st.integers(1, 5),
    length=st.integers(1, 12),
    tokens=st.integers(1, 7),
    rows=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_the_logits_are_those_of_whole_passes(kind, prefixes, length, tokens, rows, seed):
    """Also beyond the window that mistral's attention slides (8)."""
    decoder, g = DECODERS[kind], torch.Generator().manual_seed(seed)
    before = torch.randint(VOCABULARY, (prefixes, length), generator=g)
    after = torch.randint(VOCABULARY, (tokens,), generator=g)
    found = torch.cat(list(continuations(dissect(decoder).anatomy, before, after, rows=rows)))
    whole = torch.cat([before.repeat_interleave(tokens, 0), after.repeat(prefixes)[:, None]], 1)
    expected = decoder(whole)[:, -1].unflatten(0, (prefixes, tokens))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
