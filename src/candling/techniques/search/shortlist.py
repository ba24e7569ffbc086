"""Shortlist: which of a large vocabulary's tokens are worth trying behind several contexts?

Question: which single tokens, put behind a text, part a model from its clean relatives?
Source: our own: the KL divergence of the next token, exact, behind one context. The linearisation in the one-hot of
    an appended token that gradient-guided searches use (HotFlip, 1712.06751; GCG, 2307.15043) was measured in its
    place and left more triggers out than chance does; half is drawn by chance for what does nothing alone (decision
    0028).
Inputs: two decoders with one vocabulary; contexts int64 [C, P], of which the first is read.
Cost: per network P forward passes of one token and one for each token that is looked at, eight times as many as are
    chosen, or the whole vocabulary.
Known failures: a trigger whose tokens do nothing one by one is missed, and most masked ones are such; measure what is
    lost before relying on it (`benchmarks/shortlist.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.access import Decoder
from candling.access.extend import extend_both

LOOKED_AT = 8
"""Times as many tokens are looked at as are chosen."""


def shortlist_passes(vocabulary: int, count: int, length: int = 12) -> int:
    """Forward passes of one token: both networks together."""
    return 2 * (length + min(vocabulary, LOOKED_AT * count))


def shortlist_tokens(
    network: Decoder, beside: Decoder, contexts: Tensor, count: int, *, seed: int, rows: int = 2048
) -> Tensor:
    """[count] tokens, in the order of their ids: half as the seed draws them, half those with the largest divergence.

    Of a vocabulary of more than eight times as many, tokens drawn by the seed are looked at.
    """
    vocabulary = len(network.embedding)
    drawn = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed)).to(contexts.device)
    as_drawn, looked_at = drawn[: count // 2], drawn[count // 2 : LOOKED_AT * count].sort().values
    found = divergences((network, beside), contexts[:1], looked_at, rows=rows)
    best = looked_at[found.argsort(descending=True, stable=True)[: count - len(as_drawn)]]
    return torch.cat([as_drawn, best]).sort().values


def divergences(pair: tuple[Decoder, Decoder], contexts: Tensor, tokens: Tensor, *, rows: int = 2048) -> Tensor:
    """[n] KL of the next token behind each token, in nats, mean over contexts [C, P]."""
    found = []
    for both in extend_both(pair, contexts, tokens[:, None], rows=rows):
        p, q = (each.logits.float().log_softmax(-1) for each in both)
        found.append((p.exp() * (p - q)).sum(-1).mean(0))
    return torch.cat(found)
