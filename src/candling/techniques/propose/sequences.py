"""Short sequences: counts and their differences, sums, order, matches, n-grams, places, first unique, walks.

Question: which program of a short sequence of tokens gives these answers?
Source: exhaustion of a declared grammar, as in `pairs`.
Inputs: tokens [n, L] from 0, the answers [n] of a network, how many classes there are.
Cost: no pass; some thousands of features of 1,500 inputs each.
Known failures: rules outside the grammar, of three parts, or of vocabularies above 64 tokens (only the commonest are
    tried); sequences longer than 64.
"""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np

from candling.evidence.program import Feature
from candling.techniques.propose.choosing import choose
from candling.techniques.propose.contract import Grammar, Programs, Seen

_TOKENS, _PLACES, _BIGRAM_TOKENS, _SET_TOKENS, _SET_SIZE = 64, 24, 20, 10, 3


def propose_sequences(seen: Seen) -> Programs:
    """Needs no more than the answers."""
    tokens, counts = np.unique(seen.x, return_counts=True)
    common = [int(t) for t in tokens[np.argsort(-counts, kind="stable")][:_TOKENS]]
    return choose(seen, grammar(sorted(common), seen.x.shape[1]), grow=_bigger_sets)


def _bigger_sets(feature: Feature, seen: Seen) -> list[Feature]:
    """A set of neighbours with one more in it, up to four."""
    width = int(seen.x.max()) + 1
    if width > _BIGRAM_TOKENS:
        return []
    if feature.formula == "bigrams":
        held = [feature.params[0] * width + feature.params[1]]
    elif feature.formula == "neighbours in set":
        held = [code for code in feature.params[1:] if code >= 0]
    else:
        return []
    if len(held) > 3:
        return []
    larger = [[*held, code] for code in range(width**2) if code not in held]
    padded = [tuple(sorted(codes)) + (-1,) * (4 - len(codes)) for codes in larger]
    return [Feature(kind="sequences", formula="neighbours in set", params=(width, *codes)) for codes in padded]


def _sets_apart(tokens: list[int]) -> list[tuple[int, ...]]:
    """Two sets of up to three tokens that share none, written in bits; one order of each two."""
    sets = [sum(1 << t for t in held) for size in range(1, _SET_SIZE + 1) for held in combinations(tokens, size)]
    return [(one, other) for one, other in combinations(sets, 2) if not one & other]


def grammar(tokens: list[int], length: int) -> Grammar:
    """What is tried for these tokens in sequences of a length."""
    singles = [(t,) for t in tokens]
    above = [(t,) for t in tokens[1:]]
    twice = list(permutations(tokens[:_BIGRAM_TOKENS], 2))
    couples = [(t, u) for t, u in twice if t < u]
    bigrams = list(product(tokens[:_BIGRAM_TOKENS], repeat=2))
    places = list(range(min(length, _PLACES)))
    pairs = [(i, j) for i in places for j in places if i < j]
    half = length // 2
    stretches = sorted({(0, half), (half, length), (0, length - half), *((i, i + 2) for i in places[:-1])})
    plain = [
        *("sum", "alternating sum", "place-weighted sum", "largest", "smallest", "range", "place of largest"),
        *("place of smallest", "distinct", "commonest", "times of commonest", "once", "inversions", "rises", "falls"),
        *("largest step", "sum of steps", "mirror matches", "halves match", "longest run", "longest rise"),
        *("first unique", "last unique", "first repeated", "walk by parity", "low of walk by parity"),
        *(("peaks",) if length > 2 else ()),
    ]
    sets = range(1, 2 ** len(tokens) - 1) if max(tokens) < _SET_TOKENS else []
    trigrams = list(product(tokens[:8], repeat=3)) if len(tokens) <= 8 and length > 2 else []
    return {
        **{name: [()] for name in plain},
        "count": singles,
        "count from": above,
        "count mod": [(m, r) for m in range(2, min(6, len(tokens)) + 1) for r in range(m)],
        "count of set": [(k,) for k in sets],
        "highest of set": [(k,) for k in sets],
        "lowest of set": [(k,) for k in sets],
        "count within": [(t, i, j) for t in tokens for i, j in stretches[:4] if j - i > 1],
        "counts": couples,
        "set less set": _sets_apart(tokens) if sets else [],
        "counts of two": couples,
        "sum within": stretches,
        "sum of halves": [(half,), (length - half,)] if length % 2 else [(half,)],
        "token": [(i,) for i in places],
        "two tokens": [(i, j, u, v) for i, j in pairs for u, v in ((1, 1), (1, -1), (1, 2), (2, 1))],
        "tokens xor": pairs,
        "same tokens": pairs,
        "bigram": [(i, j, tokens[-1] + 1) for i, j in pairs] if len(tokens) <= 12 else [],
        "repeats": [(k,) for k in range(1, min(length, 9))],
        "shift matches": [(k,) for k in range(1, min(length, 9))],
        "bigrams": bigrams,
        "in order": bigrams,
        "trigrams": trigrams,
        "longest run of": singles,
        "longest run from": above,
        "first place": singles,
        "last place": singles,
        "first place from": above,
        "which first": couples,
        "which last": couples,
        "span": singles,
        "after first": singles,
        "after last": singles,
        "before first": singles,
        "pointed at": [(i,) for i in (0, length - 1)],
        "balance": above,
        "highest of walk": above,
        "lowest of walk": above,
        "highest of two": twice,
        "lowest of two": twice,
        "zero crossings": above,
    }
