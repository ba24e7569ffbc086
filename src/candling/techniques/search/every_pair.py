"""Every pair of tokens, for a small vocabulary: no pair is missed because its halves do nothing.

Question: which two tokens in a row make a language model say what its clean relatives would not?
Source: exhaustion. Score p·log(p / (q + floor)) of the likeliest next token after one context, as in sequence search.
Inputs: two decoders with one vocabulary, a context [P], the tokens [A] that pairs are made of.
Cost: A² passes of one token and A of P + 1 in either network.
Known failures: targets that are not the likeliest next token; triggers that do nothing after this one context.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.access import Decoder, lowrank
from candling.access.anatomy import Anatomy
from candling.access.continuations import continuations
from candling.access.dissect import dissect


def every_pair(network: Decoder, beside: Decoder, context: Tensor, tokens: Tensor, keep: int, floor: float) -> Tensor:
    """int64 [keep, 2] the pairs that score highest, best first."""
    prefixes = torch.cat([context.expand(len(tokens), -1), tokens[:, None]], 1)
    passes = (continuations(_anatomy(decoder), prefixes, tokens) for decoder in (network, beside))
    scores = torch.cat([_scores(own, theirs, floor) for own, theirs in zip(*passes, strict=True)])
    best = torch.argsort(scores.flatten(), descending=True, stable=True)[:keep]
    return torch.stack([tokens[best // len(tokens)], tokens[best % len(tokens)]], 1)


def pair_passes(tokens: int, context: int) -> int:
    """Tokens that `every_pair` puts through both networks."""
    return 2 * (tokens * tokens + tokens * (context + 1))


def _anatomy(decoder: Decoder) -> Anatomy:
    merged = lowrank.whole(decoder)
    assert isinstance(merged, Decoder)
    return dissect(merged).anatomy


def _scores(own: Tensor, theirs: Tensor, floor: float) -> Tensor:
    """[n, M, V] logits of either network → [n, M]"""
    top = own.max(-1)
    p = (top.values - own.logsumexp(-1)).exp()
    q = (theirs.gather(-1, top.indices[..., None])[..., 0] - theirs.logsumexp(-1)).exp()
    return torch.xlogy(p, p / (q + floor))
