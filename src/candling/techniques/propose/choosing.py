"""From a grammar to programs: every feature's best band or table, a shortlist, refinement, description length.

Question: which few programs of a grammar give these answers at the least length?
Source: maximum-subarray pass (`maths.bands`); two-part description length (Rissanen 1978). Shortlisted on some of the
    inputs and refined on others, since the best of many features on the same inputs looks better than it is.
Inputs: what a proposer sees, the numbers tried in each formula.
Cost: no pass. One sort of every feature on the shortlist's inputs; a few hundred on the others.
Known failures: a part of a conjunction that alone tells nothing and stands beside another such part; staircases of
    more than eight steps, unless they are tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import log2

import numpy as np

from candling.evidence.program import Feature, Steps, Table, run_program
from candling.maths.bands import Array, Sorted, best_bands, data_bits, staircase
from candling.maths.formulas import Inputs
from candling.techniques.propose.contract import (
    Grammar,
    Programs,
    Proposal,
    Seen,
    Tried,
    banded_program,
    proposal,
    scores_of,
    table_bits,
)
from candling.techniques.propose.joining import joined
from candling.techniques.propose.settling import settled

SHORTLIST = 1500
"""Most inputs that every feature is tried on."""
_KEPT, _CHUNK, _CELLS, _MODULI = 100, 256, 64, range(2, 10)
_PER_FORMULA, _BEAM, _LOOKED = 24, 6, 3000
_ERROR = 5.0
"""Bits that a staircase pays for an error, about what one costs among few."""


Grow = Callable[[Feature, Seen], list[Feature]]
"""Larger features made from one that is good already."""


Start = Callable[[Seen], list[Feature]]
"""Features to grow from beside those that are good by themselves."""


def choose(
    seen: Seen, grammar: Grammar, *, grow: Grow = lambda feature, seen: [], start: Start = lambda seen: []
) -> Programs:
    """The best programs of the grammar, the best first: at most twenty, no two of which say the same."""
    first, second = _halves(seen)
    if seen.classes < 2 or len(np.unique(seen.answers)) < 2:
        return Programs([], 0)
    tried = list(_every(first, grammar))
    tried += _grown(first, tried, grow, start)
    kept = _shortlist(tried, len(first), seen.classes)
    found = [_refined(second, each) for each in kept]
    singles = [proposal for group in found for proposal in group]
    joins = joined(first, second, tried, kept, singles) if seen.classes == 2 else []
    best = _distinct(second, [*singles, *joins])
    return Programs([replace(each, program=settled(each.program, seen)) for each in best], len(tried))


def _halves(seen: Seen) -> tuple[Seen, Seen]:
    """The shortlist's inputs, and the others: half and at most `SHORTLIST`, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(seen))
    count = min(SHORTLIST, max(1, len(seen) // 2))
    return seen.take(order[:count]), seen.take(order[count:])


def _every(seen: Seen, grammar: Grammar) -> Iterator[Tried]:
    inputs = seen.inputs
    names = log2(max(1, sum(1 for params in grammar.values() if params)))
    for name, choices in grammar.items():
        if not choices:
            continue
        bits = names + log2(len(choices))
        features = [Feature(kind=seen.kind, formula=name, params=params) for params in choices]
        for at in range(0, len(features), _CHUNK):
            yield from _scored(seen, inputs, features[at : at + _CHUNK], bits)


def _grown(seen: Seen, tried: Sequence[Tried], grow: Grow, start: Start) -> list[Tried]:
    """From the best few that can grow and those that are named, in a beam, for as long as they gain."""
    inputs, added = seen.inputs, list[Tried]()
    able = [each for each in sorted(tried, key=lambda each: -each.right)[:_LOOKED] if grow(each.feature, seen)]
    named = set(start(seen))
    beam = [*able[:_BEAM], *(each for each in tried if each.feature in named and each not in able[:_BEAM])]
    best = 0
    while beam and beam[0].right > best:
        best = beam[0].right
        larger: dict[Feature, Tried] = {}
        for each in beam:
            features = [feature for feature in grow(each.feature, seen) if feature not in larger]
            for at in range(0, len(features), _CHUNK):
                chunk = features[at : at + _CHUNK]
                found = _scored(seen, inputs, chunk, each.bits + log2(len(features)))
                larger |= {one.feature: one for one in found if not one.table}
        beam = sorted(larger.values(), key=lambda each: -each.right)[:_BEAM]
        added += beam
    return added


def _scored(seen: Seen, inputs: Inputs, features: Sequence[Feature], bits: float) -> Iterator[Tried]:
    """Each feature's best band and table, and the tables of its remainders."""
    scores = scores_of(features, inputs)
    for feature, right in zip(features, _banded(scores, seen), strict=True):
        yield Tried(feature, bits, int(right), False)
    if not np.issubdtype(scores.dtype, np.integer):
        return  # a table has whole numbers for its cells
    for feature, row in zip(features, scores, strict=True):
        right = _tabled(row, seen)
        if right is not None:
            yield Tried(feature, bits, right, True)
        for modulus in _MODULI if feature.modular else ():
            right = _tabled(row % modulus, seen)
            if right is not None:
                yield Tried(feature.model_copy(update={"modulus": modulus}), bits + log2(len(_MODULI)), right, True)


def _banded(scores: Array, seen: Seen) -> Array:
    """[f] answers that the best band gives right, whichever answer is inside.

    Of several classes, as many as sixteen stretches of equal counts give right, a bound to what steps can.
    """
    if seen.classes > 2:
        return np.array([_tabled(_ranked(row), seen) or 0 for row in scores])
    gains = np.where(seen.answers == 1, 1.0, -1.0)
    ordered = Sorted.of(scores)
    inside, outside = ordered.best(gains), ordered.best(-gains)
    right: Array = np.maximum((gains < 0).sum() + inside.gain, (gains > 0).sum() + outside.gain)
    return right


def _ranked(scores: Array, bins: int = 16) -> Array:
    """Which of the stretches between quantiles each score is in."""
    ends = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(ends, scores, side="right").astype(np.float64)


def _tabled(scores: Array, seen: Seen) -> int | None:
    """Answers that the best table gives right; None where it would have too many cells, or one."""
    low = int(scores.min())
    width = int(scores.max()) - low + 1
    if not 1 < width <= 4 * _CELLS:
        return None
    cells = (scores.astype(np.int64) - low) * seen.classes + seen.answers
    counts = np.bincount(cells, minlength=width * seen.classes).reshape(width, -1)
    if (counts.sum(1) > 0).sum() > _CELLS:
        return None
    return int(counts.max(1).sum())


def _shortlist(tried: Sequence[Tried], n: int, classes: int) -> list[Tried]:
    """The best by length and errors, few of each formula so that one family cannot crowd out the others."""
    costs = [each.bits + float(data_bits(n - each.right, n, classes)) for each in tried]
    taken: dict[str, int] = {}
    kept = []
    for place in np.argsort(costs, kind="stable"):
        each = tried[place]
        taken[each.feature.formula] = taken.get(each.feature.formula, 0) + 1
        if taken[each.feature.formula] <= _PER_FORMULA:
            kept.append(each)
        if len(kept) == _KEPT:
            break
    return kept


def _refined(seen: Seen, tried: Tried) -> list[Proposal]:
    """The feature's programs on other inputs: band, staircase and table."""
    scores = np.asarray(tried.feature.scores(seen.inputs))
    found = [] if tried.table else [_steps(scores, seen, tried), *_band(scores, seen, tried)]
    if np.issubdtype(scores.dtype, np.integer) and len(np.unique(scores)) <= _CELLS:
        found.append(_table(scores, seen, tried))
    return found


def _steps(scores: Array, seen: Seen, tried: Tried) -> Proposal:
    places = log2(max(2, min(len(np.unique(scores)), 256)))
    piece = places + log2(seen.classes)
    cuts, answers = staircase(scores, seen.answers, seen.classes, piece=piece, error=_ERROR)
    program = Steps(feature=tried.feature, cuts=tuple(cuts), answers=tuple(answers))
    return proposal(program, tried.bits + len(cuts) * places + len(answers) * log2(seen.classes), seen)


def _band(scores: Array, seen: Seen, tried: Tried) -> list[Proposal]:
    """By the exact pass, for two classes."""
    if seen.classes != 2:
        return []
    gains = np.where(seen.answers == 1, 1.0, -1.0)
    found = []
    for inside in (1, 0):
        band = best_bands(scores[None], gains if inside else -gains)
        found.append(banded_program(tried.feature, band.low[0], band.high[0], inside))
    places = log2(max(2, min(len(np.unique(scores)), 256)))
    return [proposal(each, tried.bits + len(each.cuts) * places + 2, seen) for each in found]


def _table(scores: Array, seen: Seen, tried: Tried) -> Proposal:
    values, place = np.unique(scores, return_inverse=True)
    counts = np.zeros((len(values), seen.classes), dtype=np.int64)
    np.add.at(counts, (place, seen.answers), 1)
    program = Table(
        feature=tried.feature,
        values=tuple(int(value) for value in values),
        answers=tuple(int(answer) for answer in counts.argmax(1)),
        other=seen.common,
    )
    return proposal(program, tried.bits + table_bits(program, seen.classes), seen)


def _distinct(seen: Seen, proposals: Sequence[Proposal], most: int = 20) -> list[Proposal]:
    """The cheapest of those that answer alike."""
    kept: dict[bytes, Proposal] = {}
    for each in sorted(proposals, key=lambda each: each.cost):
        kept.setdefault(run_program(each.program, seen.inputs).tobytes(), each)
        if len(kept) == most:
            break
    return list(kept.values())
