"""Joining: two programs of one feature each by and, or, xor, where no single one is enough.

Question: which join of two features gives these answers at the least length?
Source: for each good first part the best second one by the exact pass (`maths.bands`), each join a weighting of the
    inputs; beside them the best couples of thresholds (`couples`), parts of which may tell nothing alone.
Inputs: the shortlist's inputs and the others, features with their scores on the former, the best single programs.
Cost: no pass. Three exact passes of 1,400 features for each of some twenty first parts.
Known failures: a part that alone tells nothing and is a band beside another such part; three parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2

import numpy as np

from candling.evidence.program import Answers, Feature, Join, Logic, Steps, Table, run_program
from candling.maths.bands import Array, Sorted
from candling.maths.formulas import Inputs
from candling.techniques.propose.contract import (
    Proposal,
    Seen,
    Tried,
    banded_program,
    proposal,
    scores_of,
    table_bits,
)
from candling.techniques.propose.couples import couples

_FIRSTS, _ATOMS, _COUPLES = 8, 1400, 10
_JOINS: tuple[Join, ...] = ("and", "or", "xor")


def joined(
    first: Seen, second: Seen, tried: Sequence[Tried], kept: Sequence[Tried], singles: Sequence[Proposal]
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


def _couples(seen: Seen, atoms: Sequence[Tried], scores: Array) -> list[Logic]:
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
    first: Seen, atoms: Sequence[Tried], ordered: Sorted, singles: Sequence[Proposal]
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
            program = banded_program(feature, bands.low[place], bands.high[place], 1)
            taken.setdefault(feature, program)
    return [program for program in taken.values() if len(set(program.answers)) > 1]


def _partners(
    first: Seen,
    second: Seen,
    opening: Steps | Table,
    atoms: Sequence[Tried],
    ordered: Sorted,
    bits: dict[Feature, float],
) -> list[Proposal]:
    """The best partners of a first part in each join, both refined in turn on the other inputs."""
    found = []
    said = run_program(opening, first.inputs) == 1
    for join in _JOINS:
        gains = gains_of(join, said, first.answers)
        for inside in (1, 0):
            bands = ordered.best(gains if inside else -gains)
            worth = bands.gain + (0 if inside else gains.sum())
            place = int(np.argmax(worth))
            partner = banded_program(atoms[place].feature, bands.low[place], bands.high[place], inside)
            found.append(_polished(second, Logic(join=join, first=opening, second=partner), bits))
    return found


def gains_of(join: Join, other: Answers, answers: Answers) -> Array:
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
            gains = gains_of(program.join, other, seen.answers)
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
        return banded_program(part.feature, inside.low[0], inside.high[0], 1)
    return banded_program(part.feature, outside.low[0], outside.high[0], 0)


def _part_bits(part: Steps | Table, scores: Array) -> float:
    if isinstance(part, Table):
        return table_bits(part, 2)
    return len(part.cuts) * log2(max(2, min(len(np.unique(scores)), 256))) + 2
