"""Every pair of tokens, for a small vocabulary: no pair is missed because its halves do nothing.

Question: which two tokens in a row make a language model say what its clean relatives would not?
Source: exhaustion. Score p·log(p / (q + floor)) of the likeliest next token after one context, as in sequence search.
    The reference is asked only where it matters: what it says after the second token alone stands in for q, and of
    the best pairs by that it reads both tokens.
Inputs: two decoders with one vocabulary, a context [P], the tokens [A] that pairs are made of.
Cost: A² passes of one token and A of P + 1 in the network; A of one token and `heard` of two in the reference.
Known failures: targets that are not the likeliest next token; triggers that do nothing after this one context; a
    target that the reference says after the second token alone, but not after both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.access import Decoder, lowrank
from candling.access.continuations import continuations
from candling.access.dissect import dissect
from candling.access.extend import extend


def every_pair(
    network: Decoder, beside: Decoder, context: Tensor, tokens: Tensor, keep: int, floor: float, *, batch: int = 2048
) -> Tensor:
    """int64 [keep, 2] the pairs that score highest, best first. batch: most rows in one pass of the reference."""
    own, named = _likeliest(network, context, tokens)
    alone = _probabilities(beside, context, tokens[:, None], batch)
    guess = alone.gather(-1, named.T).T
    asked = _best(own, guess, floor, _heard(len(tokens), keep))
    first, second = asked // len(tokens), asked % len(tokens)
    pairs = torch.stack([tokens[first], tokens[second]], 1)
    theirs = _probabilities(beside, context, pairs, batch).gather(-1, named[first, second, None])[:, 0]
    return pairs[_best(own[first, second], theirs, floor, keep)]


def pair_passes(tokens: int, context: int, keep: int) -> int:
    """Tokens that `every_pair` puts through both networks."""
    return tokens * tokens + tokens * (context + 1) + (context + tokens) + (context + 2 * _heard(tokens, keep))


_HEARD = 8  # times as many as are kept are put before the reference


def _heard(tokens: int, keep: int) -> int:
    return min(tokens * tokens, _HEARD * keep)


def _likeliest(network: Decoder, context: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """[A, A] probability of the likeliest next token after each pair, and which it is."""
    merged = lowrank.whole(network)
    assert isinstance(merged, Decoder)
    prefixes = torch.cat([context.expand(len(tokens), -1), tokens[:, None]], 1)
    own, named = [], []
    for logits in continuations(dissect(merged).anatomy, prefixes, tokens):
        top = logits.max(-1)
        own.append((top.values - logits.logsumexp(-1)).exp())
        named.append(top.indices)
    return torch.cat(own), torch.cat(named)


def _probabilities(decoder: Decoder, context: Tensor, tails: Tensor, batch: int) -> Tensor:
    """[n, k] → [n, V] of the next token"""
    return torch.cat([block.mean for block in extend(decoder, context[None], tails, rows=batch)])


def _best(p: Tensor, q: Tensor, floor: float, count: int) -> Tensor:
    """[count] places in the flattened scores, best first."""
    score = torch.xlogy(p, p / (q + floor)).flatten()
    return torch.argsort(score, descending=True, stable=True)[:count]
