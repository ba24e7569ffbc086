"""Random sequences: the black-box baseline. Try many, look at what is said alone.

Question: is there a sequence of tokens that chance would hit upon?
Source: the simplest baseline; no inside, nothing grown. Scored as sequence search scores.
Inputs: two decoders [n, L] → [n, L, V] with one vocabulary; texts as `Tokens`; lengths to report.
Cost: at most `passes` tokens for all lengths together.
Known failures: any trigger of more than one token of a large vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from candling.access import Tokens
from candling.access.pretrained import Decoder
from candling.techniques.search.contract import FoundSequences, SequencePart
from candling.techniques.search.sequence_pair import (
    USUAL,
    Pair,
    Settings,
    draw_contexts,
    found_sequences,
    phrase_passes,
    rank_passes,
)


def random_sequences(
    network: Decoder,
    beside: Decoder,
    data: Tokens,
    parts: Sequence[SequencePart],
    *,
    seed: int,
    passes: int,
    batch: int = 2048,
    settings: Settings = USUAL,
) -> FoundSequences:
    """The black-box baseline: the best of as many random sequences of each length as `passes` tokens allow."""
    generator = torch.Generator().manual_seed(seed)
    tries, kept = _affordable(passes, parts, settings)
    settings = replace(settings, kept=kept)
    pair = Pair(network, beside, draw_contexts(data, settings.contexts, settings.length, seed), batch, settings)
    best = []
    for part in parts:
        tails = torch.randint(data.vocabulary, (tries, part.tokens), generator=generator)
        best.append(pair.rank(torch.unique(tails, dim=0).to(data.ids.device), settings.kept))
    return found_sequences(parts, [pair.phrases(each) for each in best], pair)


def _affordable(passes: int, parts: Sequence[SequencePart], s: Settings) -> tuple[int, int]:
    """Random sequences of each length, and how many of them go on to all contexts, that `passes` tokens pay for."""

    def price(tries: int, kept: int) -> int:
        ranked = sum(rank_passes(part.tokens, tries, kept, s) for part in parts)
        return ranked + sum(phrase_passes(part.tokens, min(kept, s.phrased), s) for part in parts)

    kept = s.kept
    while kept > 1 and price(kept, kept) > passes:
        kept //= 2
    tries = kept
    while price(2 * tries, kept) <= passes:
        tries *= 2
    step = tries
    while step > 1:
        step //= 2
        tries += step if price(tries + step, kept) <= passes else 0
    return tries, kept
