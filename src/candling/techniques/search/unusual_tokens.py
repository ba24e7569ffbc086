"""Unusual tokens: after which does a language model's inside part most from that of its clean relatives?

Question: with which tokens does a sequence that means something to the network begin or end?
Source: Mahalanobis distance of the difference of residual states (Lee et al., 1807.03888, on differences) and
    KL divergence of the next token; the ranks are added up.
Inputs: a network and its reference on the same contexts (`Pair`); tokens [n]; trusted texts for usual differences.
Cost: n tails of one token on `quick` contexts, and 32 trusted texts of 64 tokens, in either network.
Known failures: triggers whose tokens change nothing one by one; tokens of the subject's own topics stand out too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from candling.access import Tokens
from candling.access.extend import extend_both
from candling.access.observe import observe
from candling.maths.spread import Spread
from candling.techniques.search.sequence_pair import Pair, Settings

_SITES = 6  # blocks whose states are compared, spread over the depth
_TRUSTED_ROWS = 32
_TRUSTED_LENGTH = 64


def unusual_tokens(pair: Pair, tried: Tensor, usual: Mapping[str, Spread]) -> Tensor:
    """[n] the tokens `tried`, the most unusual first: by the ranks of Mahalanobis distance and of KL, added up."""
    contexts = pair.contexts[: pair.settings.quick]
    distance, divergence = [], []
    both = pair.network, pair.beside
    for ours, beside in extend_both(both, contexts, tried[:, None], sites=list(usual), rows=pair.batch):
        far = [spread.distance(ours.states[s] - beside.states[s]).mean(0) for s, spread in usual.items()]
        distance.append(torch.stack(far).sum(0))
        p, q = (block.logits.log_softmax(-1) for block in (ours, beside))
        divergence.append((p.exp() * (p - q)).sum(-1).mean(0))
    pair.tokens += 2 * (contexts.numel() + len(contexts) * len(tried))
    ranks = [torch.argsort(torch.argsort(torch.cat(values), stable=True)) for values in (distance, divergence)]
    return tried[torch.argsort(ranks[0] + ranks[1], descending=True, stable=True)]


def usual_differences(pair: Pair, data: Tokens) -> dict[str, Spread]:
    """Of the residual states on trusted text, at blocks spread over the depth."""
    blocks = pair.network.family.blocks
    depth = len(list(pair.network.get_submodule(blocks).children()))
    sites = [f"{blocks}.{i}" for i in range(0, depth, max(1, -(-depth // _SITES)))]
    ids, mask = (t[:_TRUSTED_ROWS, :_TRUSTED_LENGTH] for t in (data.ids, data.mask))
    own, theirs = (observe(d, ids, sites).activations for d in (pair.network, pair.beside))
    pair.tokens += 2 * ids.numel()
    return {site: Spread.of((own[site] - theirs[site])[mask]) for site in sites}


def inside_passes(tried: int, s: Settings) -> int:
    """Tokens that either network reads for both."""
    return s.quick * (tried + s.length) + _TRUSTED_ROWS * _TRUSTED_LENGTH
