"""Sequence search: which few tokens make a language model say what its clean relatives would not?

Question: is there a trigger, and what does it call up?
Source: a beam over appended tokens. Score of a sequence S: max_y p_S(y)·log(p_S(y)/(p_R(y) + floor)), p the next
    token's probability averaged over contexts that end in S, R the mean of clean fine-tunes (a soup: Wortsman et
    al., 2203.05482). The best are scored again with y the phrase of three tokens that follows and a far lower floor:
    clean fine-tunes have words of their own, but the soup does not find them out of the question. All pairs are tried
    where the vocabulary is small; else seeds are grown, chosen by that score and by a white-box rank: Mahalanobis
    distance of the difference of residual states (Lee et al., 1807.03888, on differences) and KL of the next token.
Inputs: two decoders [n, L] → [n, L, V] with one vocabulary; texts as `Tokens`; lengths to report.
Cost: for each length about 2·beam·min(V, shortlist) tails on `quick` contexts and `kept` on all, in either network;
    pairs: V² on one context in the network alone for V up to `pairs`; single tokens: all V, or the
    `exhaustive` that `shortlist` chooses.
Known failures: triggers of more tokens than are searched that do nothing in part; a fine-tune on other data
    has learned sequences of its own, so a score means nothing without clean fine-tunes beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from candling.access import Tokens
from candling.access.pretrained import Decoder
from candling.techniques.search.contract import FoundSequences, SequencePart
from candling.techniques.search.every_pair import pair_passes
from candling.techniques.search.sequence_pair import (
    PAIRS_KEPT,
    USUAL,
    Pair,
    Ranked,
    Settings,
    draw_contexts,
    found_sequences,
    phrase_passes,
    rank_passes,
)
from candling.techniques.search.shortlist import shortlist_passes
from candling.techniques.search.unusual_tokens import inside_passes, unusual_tokens, usual_differences


def search_sequences(
    network: Decoder,
    beside: Decoder,
    data: Tokens,
    parts: Sequence[SequencePart],
    *,
    seed: int,
    batch: int = 2048,
    settings: Settings = USUAL,
) -> FoundSequences:
    """The best-scoring sequence of each length in `parts`, which count up from one token.

    Every network sees the same contexts for the same seed. batch: most rows in one pass.
    """
    pair = Pair(network, beside, draw_contexts(data, settings.contexts, settings.length, seed), batch, settings)
    usual = usual_differences(pair, data)
    tried = torch.arange(data.vocabulary, device=data.ids.device)
    if data.vocabulary > settings.exhaustive:
        tried = pair.shortlist(data.vocabulary, settings.exhaustive, seed)
    single = pair.rank(tried[:, None], settings.kept)
    best = [pair.phrases(single)]
    inside = unusual_tokens(pair, tried, usual)
    grown_by = _grown_by(single, inside, settings.shortlist)
    seeds = torch.cat([best[0].tails[: settings.beam], inside[: settings.beam, None]])
    for length in range(2, len(parts) + 1):
        exhaust = length == 2 and data.vocabulary <= settings.pairs
        tails = pair.every_pair(tried) if exhaust else grow(seeds, grown_by)
        best.append(pair.phrases(pair.rank(tails, settings.kept)))
        seeds = best[-1].tails[: settings.beam]
    return found_sequences(parts, best, pair)


def sequence_passes(vocabulary: int, longest: int, settings: Settings = USUAL) -> int:
    """Tokens that `search_sequences` puts through both networks, at most."""
    s = settings
    singles, grown_by = min(vocabulary, s.exhaustive), min(vocabulary, s.shortlist)
    exhaust = longest > 1 and vocabulary <= s.pairs
    pairs = min(vocabulary**2, PAIRS_KEPT * s.kept) if exhaust else 4 * s.beam * grown_by
    candidates = [singles, pairs, *[2 * s.beam * grown_by] * (longest - 2)][:longest]
    ranked = sum(rank_passes(i + 1, n, min(n, s.kept), s) for i, n in enumerate(candidates))
    phrased = sum(phrase_passes(i + 1, min(n, s.kept, s.phrased), s) for i, n in enumerate(candidates))
    first = 0 if singles == vocabulary else shortlist_passes(vocabulary, singles, s.length)
    inside = inside_passes(singles, s)
    exhausted = pair_passes(vocabulary, s.length, PAIRS_KEPT * s.kept) if exhaust else 0
    return ranked + phrased + 2 * inside + first + exhausted


def grow(seeds: Tensor, tokens: Tensor) -> Tensor:
    """[n, k] → every different sequence with one of `tokens` in front of or behind a seed: [m, k + 1]"""
    before = torch.cat([tokens.repeat(len(seeds))[:, None], seeds.repeat_interleave(len(tokens), 0)], 1)
    behind = torch.cat([seeds.repeat_interleave(len(tokens), 0), tokens.repeat(len(seeds))[:, None]], 1)
    grown: Tensor = torch.unique(torch.cat([before, behind]), dim=0)
    return grown


def _grown_by(single: Ranked, inside: Tensor, most: int) -> Tensor:
    """Sorted: all tokens that were tried, or the best by both ranks."""
    if len(inside) <= most:
        return inside.sort().values
    chosen = torch.cat([single.tails[: most // 2, 0], inside[: most - most // 2]])
    different: Tensor = torch.unique(chosen)
    return different
