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
from dataclasses import dataclass, replace
from math import log2

import numpy as np

from candling.evidence.program import FORMULAS, Answers, Feature, Join, Logic, Steps, Table, run_program
from candling.maths.bands import Array, Sorted, best_bands, data_bits, staircase
from candling.maths.formulas import Inputs
from candling.techniques.propose.contract import Grammar, Programs, Proposal, Seen, Writable
from candling.techniques.propose.couples import couples

SHORTLIST = 1500
"""Most inputs that every feature is tried on."""
_KEPT, _CHUNK, _CELLS, _MODULI = 100, 256, 64, range(2, 10)
_FIRSTS, _ATOMS, _PER_FORMULA, _BEAM, _LOOKED = 8, 1400, 24, 6, 3000
_COUPLES = 10
_ERROR = 5.0
"""Bits that a staircase pays for an error, about what one costs among few."""


@dataclass(frozen=True, eq=False)
class _Tried:
    """A feature with its score on the shortlist's inputs."""

    feature: Feature
    bits: float
    right: int
    table: bool


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
    joined = _joined(first, second, tried, kept, singles) if seen.classes == 2 else []
    best = _distinct(second, [*singles, *joined])
    return Programs([replace(each, program=settled(each.program, seen)) for each in best], len(tried))


def _halves(seen: Seen) -> tuple[Seen, Seen]:
    """The shortlist's inputs, and the others: half and at most `SHORTLIST`, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(seen))
    count = min(SHORTLIST, max(1, len(seen) // 2))
    return seen.take(order[:count]), seen.take(order[count:])


def _every(seen: Seen, grammar: Grammar) -> Iterator[_Tried]:
    inputs = seen.inputs
    names = log2(max(1, sum(1 for params in grammar.values() if params)))
    for name, choices in grammar.items():
        if not choices:
            continue
        bits = names + log2(len(choices))
        features = [Feature(kind=seen.kind, formula=name, params=params) for params in choices]
        for at in range(0, len(features), _CHUNK):
            yield from _scored(seen, inputs, features[at : at + _CHUNK], bits)


def _grown(seen: Seen, tried: Sequence[_Tried], grow: Grow, start: Start) -> list[_Tried]:
    """From the best few that can grow and those that are named, in a beam, for as long as they gain."""
    inputs, added = seen.inputs, list[_Tried]()
    able = [each for each in sorted(tried, key=lambda each: -each.right)[:_LOOKED] if grow(each.feature, seen)]
    named = set(start(seen))
    beam = [*able[:_BEAM], *(each for each in tried if each.feature in named and each not in able[:_BEAM])]
    best = 0
    while beam and beam[0].right > best:
        best = beam[0].right
        larger: dict[Feature, _Tried] = {}
        for each in beam:
            features = [feature for feature in grow(each.feature, seen) if feature not in larger]
            for at in range(0, len(features), _CHUNK):
                chunk = features[at : at + _CHUNK]
                found = _scored(seen, inputs, chunk, each.bits + log2(len(features)))
                larger |= {one.feature: one for one in found if not one.table}
        beam = sorted(larger.values(), key=lambda each: -each.right)[:_BEAM]
        added += beam
    return added


def _scored(seen: Seen, inputs: Inputs, features: Sequence[Feature], bits: float) -> Iterator[_Tried]:
    """Each feature's best band and table, and the tables of its remainders."""
    scores = scores_of(features, inputs)
    for feature, right in zip(features, _banded(scores, seen), strict=True):
        yield _Tried(feature, bits, int(right), False)
    if not np.issubdtype(scores.dtype, np.integer):
        return  # a table has whole numbers for its cells
    for feature, row in zip(features, scores, strict=True):
        right = _tabled(row, seen)
        if right is not None:
            yield _Tried(feature, bits, right, True)
        for modulus in _MODULI if feature.modular else ():
            right = _tabled(row % modulus, seen)
            if right is not None:
                yield _Tried(feature.model_copy(update={"modulus": modulus}), bits + log2(len(_MODULI)), right, True)


def scores_of(features: Sequence[Feature], inputs: Inputs) -> Array:
    """[f, n]; features of one formula that can be computed together are."""
    formulas = {feature.formula for feature in features}
    many = FORMULAS[features[0].kind][features[0].formula].many
    if len(formulas) == 1 and many is not None and not any(feature.modulus for feature in features):
        return np.asarray(many(inputs, [feature.params for feature in features]))
    return np.stack([np.asarray(feature.scores(inputs)) for feature in features])


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


def _shortlist(tried: Sequence[_Tried], n: int, classes: int) -> list[_Tried]:
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


def _refined(seen: Seen, tried: _Tried) -> list[Proposal]:
    """The feature's programs on other inputs: band, staircase and table."""
    scores = np.asarray(tried.feature.scores(seen.inputs))
    found = [] if tried.table else [_steps(scores, seen, tried), *_band(scores, seen, tried)]
    if np.issubdtype(scores.dtype, np.integer) and len(np.unique(scores)) <= _CELLS:
        found.append(_table(scores, seen, tried))
    return found


def _steps(scores: Array, seen: Seen, tried: _Tried) -> Proposal:
    places = log2(max(2, min(len(np.unique(scores)), 256)))
    piece = places + log2(seen.classes)
    cuts, answers = staircase(scores, seen.answers, seen.classes, piece=piece, error=_ERROR)
    program = Steps(feature=tried.feature, cuts=tuple(cuts), answers=tuple(answers))
    return proposal(program, tried.bits + len(cuts) * places + len(answers) * log2(seen.classes), seen)


def _band(scores: Array, seen: Seen, tried: _Tried) -> list[Proposal]:
    """By the exact pass, for two classes."""
    if seen.classes != 2:
        return []
    gains = np.where(seen.answers == 1, 1.0, -1.0)
    found = []
    for inside in (1, 0):
        band = best_bands(scores[None], gains if inside else -gains)
        found.append(_banded_program(tried.feature, band.low[0], band.high[0], inside))
    places = log2(max(2, min(len(np.unique(scores)), 256)))
    return [proposal(each, tried.bits + len(each.cuts) * places + 2, seen) for each in found]


def _banded_program(feature: Feature, low: float, high: float, inside: int) -> Steps:
    cuts, answers = [], [1 - inside]
    if low == -np.inf:
        answers = []
    elif low < high:
        cuts.append(float(low))
    if low < high:
        answers.append(inside)
        if high < np.inf:
            cuts.append(float(high))
            answers.append(1 - inside)
    return Steps(feature=feature, cuts=tuple(cuts), answers=tuple(answers or [1 - inside]))


def _table(scores: Array, seen: Seen, tried: _Tried) -> Proposal:
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


def table_bits(table: Table, classes: int) -> float:
    """By cell, or by naming the rarer cells, whichever is shorter."""
    cells = len(table.values)
    rare = cells - max(table.answers.count(answer) for answer in set(table.answers))
    named = log2(classes) + rare * (log2(max(2, cells)) + log2(max(1, classes - 1)))
    return min(cells * log2(classes), named)


def proposal(program: Writable, bits: float, seen: Seen) -> Proposal:
    """With its errors on these inputs."""
    wrong = int((run_program(program, seen.inputs) != seen.answers).sum())
    return Proposal(program, bits, wrong, bits + float(data_bits(wrong, len(seen), seen.classes)))


_JOINS: tuple[Join, ...] = ("and", "or", "xor")


def _joined(
    first: Seen, second: Seen, tried: Sequence[_Tried], kept: Sequence[_Tried], singles: Sequence[Proposal]
) -> list[Proposal]:
    """Two parts by and, or, xor: the best second part for each good first one, by the same exact pass."""
    atoms = sorted((each for each in tried if not each.table), key=lambda each: each.bits)[:_ATOMS]
    if not atoms:
        return []
    scores = _scores_of_all([each.feature for each in atoms], first.inputs)
    ordered = Sorted.of(scores)
    bits = {each.feature: each.bits for each in (*kept, *atoms)}
    found = [_polished(second, each, bits) for each in _couples(first, atoms, scores)]
    best = [each.program for each in sorted(found, key=lambda each: each.cost)[:_FIRSTS]]
    starts = [part for each in best if isinstance(each, Logic) for part in (each.first, each.second)]
    for opening in {part.feature: part for part in (*_openings(first, atoms, ordered, singles), *starts)}.values():
        found += _partners(first, second, opening, atoms, ordered, bits)
    return found


def _scores_of_all(features: Sequence[Feature], inputs: Inputs) -> Array:
    """[f, n], formula by formula."""
    together: dict[str, list[int]] = {}
    for place, feature in enumerate(features):
        together.setdefault(feature.formula, []).append(place)
    scores: dict[int, Array] = {}
    for places in together.values():
        scores |= dict(zip(places, scores_of([features[place] for place in places], inputs), strict=True))
    return np.stack([scores[place] for place in range(len(features))])


def _couples(seen: Seen, atoms: Sequence[_Tried], scores: Array) -> list[Logic]:
    """The best joins of two thresholds, of all pairs."""
    found = []
    for each in couples(scores, np.where(seen.answers == 1, 1.0, -1.0), _COUPLES):
        parts = [
            Steps(feature=atoms[at].feature, cuts=(cut,), answers=(0, 1) if above else (1, 0))
            for at, cut, above in zip(each.features, each.cuts, each.above, strict=True)
        ]
        found.append(Logic(join=each.join, first=parts[0], second=parts[1]))
    return found


def _openings(
    first: Seen, atoms: Sequence[_Tried], ordered: Sorted, singles: Sequence[Proposal]
) -> list[Steps | Table]:
    """First parts: the best single programs, and the features that best hold most of the answers 1, or 0, alone."""
    best = sorted(singles, key=lambda each: each.cost)
    taken: dict[Feature, Steps | Table] = {}
    for each in best:
        if len(taken) < _FIRSTS and not isinstance(each.program, Logic):
            taken.setdefault(each.program.feature, each.program)
    for weight in (4.0, 0.25):
        gains = np.where(first.answers == 1, weight, -1.0)
        bands = ordered.best(gains)
        for place in np.argsort(-bands.gain, kind="stable")[: _FIRSTS // 2]:
            feature = atoms[place].feature
            program = _banded_program(feature, bands.low[place], bands.high[place], 1)
            taken.setdefault(feature, program)
    return [program for program in taken.values() if len(set(program.answers)) > 1]


def _partners(
    first: Seen,
    second: Seen,
    opening: Steps | Table,
    atoms: Sequence[_Tried],
    ordered: Sorted,
    bits: dict[Feature, float],
) -> list[Proposal]:
    """The best partners of a first part in each join, both refined in turn on the other inputs."""
    found = []
    said = run_program(opening, first.inputs) == 1
    for join in _JOINS:
        gains = _gains(join, said, first.answers)
        for inside in (1, 0):
            bands = ordered.best(gains if inside else -gains)
            worth = bands.gain + (0 if inside else gains.sum())
            place = int(np.argmax(worth))
            partner = _banded_program(atoms[place].feature, bands.low[place], bands.high[place], inside)
            found.append(_polished(second, Logic(join=join, first=opening, second=partner), bits))
    return found


def _gains(join: Join, other: Answers, answers: Answers) -> Array:
    """What answering 1 rather than 0 gains in one part, the other part being what it is."""
    own = np.where(answers == 1, 1.0, -1.0)
    if join == "and":
        return np.where(other, own, 0.0)
    if join == "or":
        return np.where(other, 0.0, own)
    return np.where(other, -own, own)


def _polished(seen: Seen, program: Logic, bits: dict[Feature, float]) -> Proposal:
    """Cuts of both parts again on these inputs, twice in turn."""
    parts: list[Steps | Table] = [program.first, program.second]
    length = 0.0
    for _ in range(2):
        length = log2(len(_JOINS))
        for place in (1, 0):
            other = run_program(parts[1 - place], seen.inputs) == 1
            gains = _gains(program.join, other, seen.answers)
            feature = parts[place].feature
            scores = np.asarray(feature.scores(seen.inputs))
            parts[place] = _recut(parts[place], scores, gains)
            length += bits[feature] + _part_bits(parts[place], scores)
    final = Logic(join=program.join, first=parts[0], second=parts[1])
    return proposal(final, length, seen)


def _recut(part: Steps | Table, scores: Array, gains: Array) -> Steps | Table:
    if isinstance(part, Table):
        values = np.asarray(part.values)
        place = np.searchsorted(values, scores).clip(0, len(values) - 1)
        worth = np.bincount(place, weights=np.where(values[place] == scores, gains, 0.0), minlength=len(values))
        return part.model_copy(update={"answers": tuple(int(each > 0) for each in worth)})
    ordered = Sorted.of(scores[None])
    inside, outside = ordered.best(gains), ordered.best(-gains)
    if inside.gain[0] >= outside.gain[0] + gains.sum():
        return _banded_program(part.feature, inside.low[0], inside.high[0], 1)
    return _banded_program(part.feature, outside.low[0], outside.high[0], 0)


def _part_bits(part: Steps | Table, scores: Array) -> float:
    if isinstance(part, Table):
        return table_bits(part, 2)
    return len(part.cuts) * log2(max(2, min(len(np.unique(scores)), 256))) + 2


def settled(program: Writable, seen: Seen) -> Writable:
    """The same program with each cut, and each cell of a table, where it errs least on all of these inputs.

    One after the other, twice. Which feature is read, how many cuts there are and what they part stays as it was.
    """
    if isinstance(program, Logic):
        parts = [program.first, program.second]
        for place in (1, 0, 1, 0):
            other = run_program(parts[1 - place], seen.inputs) == 1
            gains = _gains(program.join, other, seen.answers)
            scores = np.asarray(parts[place].feature.scores(seen.inputs))
            parts[place] = _settled_part(parts[place], scores, np.stack([-gains, gains], 1))
        return Logic(join=program.join, first=parts[0], second=parts[1])
    scores = np.asarray(program.feature.scores(seen.inputs))
    return _settled_part(program, scores, np.eye(seen.classes)[seen.answers])


def _settled_part(part: Steps | Table, scores: Array, worth: Array) -> Steps | Table:
    """worth: [n, K] what each answer to each input is worth."""
    if isinstance(part, Table):
        values = np.asarray(part.values)
        totals = np.stack([worth[scores == value].sum(0) for value in values])
        said = np.where((totals == totals[:, :1]).all(1), part.answers, totals.argmax(1))
        return part.model_copy(update={"answers": tuple(int(answer) for answer in said)})
    values, place = np.unique(scores, return_inverse=True)
    totals = np.zeros((len(values), worth.shape[1]))
    np.add.at(totals, place, worth)
    below = np.concatenate([np.zeros((1, worth.shape[1])), totals.cumsum(0)])
    at = np.searchsorted(values, part.cuts).tolist()  # values below each cut
    cuts = list(part.cuts)
    for k in list(range(len(cuts))) * 2:
        start, end = at[k - 1] + 1 if k else 1, (at[k + 1] if k + 1 < len(at) else len(values)) - 1
        if start <= at[k] <= end:
            gain = below[start : end + 1, part.answers[k]] - below[start : end + 1, part.answers[k + 1]]
            if gain.max() > gain[at[k] - start]:
                at[k] = start + int(gain.argmax())
                cuts[k] = _between(float(values[at[k] - 1]), float(values[at[k]]))
    return part.model_copy(update={"cuts": tuple(cuts)})


def _between(low: float, high: float) -> float:
    middle = (low + high) / 2
    return middle if middle > low else high  # neighbouring floats have no middle


def _distinct(seen: Seen, proposals: Sequence[Proposal], most: int = 20) -> list[Proposal]:
    """The cheapest of those that answer alike."""
    kept: dict[bytes, Proposal] = {}
    for each in sorted(proposals, key=lambda each: each.cost):
        kept.setdefault(run_program(each.program, seen.inputs).tobytes(), each)
        if len(kept) == most:
            break
    return list(kept.values())
