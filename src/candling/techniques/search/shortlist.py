"""Shortlist: which of a large vocabulary's tokens are worth a pass of their own?

Question: which single tokens, put behind a text, would part a model from its clean relatives?
Source: HotFlip (Ebrahimi et al., 1712.06751, equation 5; GCG, Zou et al., 2307.15043): two quantities, the KL
    divergence of the next token and the Mahalanobis distance of residual states, linearised in the one-hot of an
    appended token from several starting tokens; and the rows of the embedding that moved.
Inputs: two decoders with one vocabulary; contexts int64 [C, P]; spreads of usual differences by site; starts [n].
Cost: per network C·(P + n) forward and 2·C·n backward passes of one token, and two products [n, d] × [d, V].
Known failures: far from a starting token the line says little, so a trigger that acts only as a whole is missed;
    measure what is lost before relying on it (`benchmarks/shortlist.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from candling.access import Decoder, Tokens
from candling.access.extend import follow
from candling.maths.spread import Spread

STARTS = 16
"""Starting tokens: the most frequent of the trusted texts."""


def common_tokens(data: Tokens, count: int = STARTS) -> Tensor:
    """[count] the most frequent tokens of the texts."""
    counts = torch.bincount(data.ids[data.mask], minlength=data.vocabulary)
    return torch.argsort(counts, descending=True, stable=True)[:count]


def shortlist_passes(contexts: int, length: int = 12) -> int:
    """Forward passes of one token, about as many backward: both networks together."""
    return 2 * contexts * (length + 2 * STARTS)


def shortlist_tokens(
    network: Decoder,
    beside: Decoder,
    contexts: Tensor,
    usual: Mapping[str, Spread],
    starts: Tensor,
    count: int,
) -> Tensor:
    """[count] tokens, in the order of their ids: those of the best place in any of the rankings."""
    rankings = torch.stack(list(scores(network, beside, contexts, usual, starts).values()))
    order = torch.argsort(rankings, stable=True, dim=1, descending=True)
    places = torch.argsort(order, dim=1)
    chosen = torch.argsort(places.amin(0), stable=True)[:count]
    return chosen.sort().values


def scores(
    network: Decoder, beside: Decoder, contexts: Tensor, usual: Mapping[str, Spread], starts: Tensor
) -> dict[str, Tensor]:
    """[V] by ranking: the estimated divergence and distance after each token, and how far its vector moved."""
    pair = network, beside
    vectors = [d.embedding[starts].detach().clone().requires_grad_() for d in pair]
    ours, theirs = (follow(d, contexts, v, sites=list(usual)) for d, v in zip(pair, vectors, strict=True))
    p, q = (block.logits.float().log_softmax(-1) for block in (ours, theirs))
    divergence = (p.exp() * (p - q)).sum(-1).mean(0)
    distance = torch.stack(
        [spread.distance(ours.states[site] - theirs.states[site]).mean(0) for site, spread in usual.items()]
    ).sum(0)
    found = {}
    for name, value in (("divergence", divergence), ("distance", distance)):
        slopes = torch.autograd.grad(value.sum(), vectors, retain_graph=True)
        found[name] = _estimate(pair, vectors, slopes, value.detach())
    moved = (network.embedding - beside.embedding).float().norm(dim=1)
    if moved.any():
        found["moved"] = moved
    return found


def _estimate(
    pair: tuple[Decoder, Decoder], vectors: list[Tensor], slopes: tuple[Tensor, ...], value: Tensor
) -> Tensor:
    """[V] value + slope·(token's vector − start's vector), averaged over the starts."""
    total = value[:, None]
    for decoder, vector, slope in zip(pair, vectors, slopes, strict=True):
        total = total + slope @ decoder.embedding.T - (slope * vector).sum(1, keepdim=True)
    return total.detach().mean(0)
