"""Couples: two conditions that say much together, though neither need say anything alone.

Question: which two of many features, joined by and, or, xor, tell two answers apart best?
Source: exhaustion. What a join gains is decided by what answering 1 gains in each quarter of two conditions, and the
    four are sums and differences of one matrix product.
Inputs: scores [f, n] of features, gains [n] of answering 1 rather than 0.
Cost: no pass; (3 f)² n multiplications.
Known failures: conditions that are bands, or thresholds far from the 30th, 50th and 70th percentile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.evidence.program import Join
from candling.maths.bands import Array

_QUANTILES = (0.3, 0.5, 0.7)
_BLOCK, _LOOKED = 512, 300
Gains = NDArray[Any]


@dataclass(frozen=True)
class Couple:
    """Two conditions: a score at or above its cut, or below it where `above` is false."""

    join: Join
    features: tuple[int, int]
    cuts: tuple[float, float]
    above: tuple[bool, bool]
    gain: float


def couples(scores: Array, gains: Array, most: int) -> list[Couple]:
    """The best, at most so many, and as many of xor, with different features each."""
    cuts = np.quantile(scores, _QUANTILES, axis=1).T
    holds = (scores[:, None, :] >= cuts[:, :, None]).reshape(-1, scores.shape[1])
    share = holds.mean(1)
    useful = np.flatnonzero((share > 0.1) & (share < 0.9))
    if len(useful) < 2:
        return []
    true, weights = holds[useful].astype(np.float32), gains.astype(np.float32)
    alone, every = true @ weights, float(weights.sum())
    found: dict[bool, list[tuple[float, int, int]]] = {True: [], False: []}
    for start in range(0, len(useful), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(useful)))
        worth, crossed = _worth((true[rows] * weights) @ true.T, alone[rows], alone, every)
        worth[rows[:, None] >= np.arange(len(useful))] = -np.inf  # each pair once
        for is_xor in (True, False):
            own = np.where(crossed == is_xor, worth, -np.inf).ravel()
            for flat in np.argpartition(-own, min(_LOOKED, len(own) - 1))[:_LOOKED]:
                if own[flat] > 0:
                    i, j = divmod(int(flat), len(useful))
                    found[is_xor].append((float(own[flat]), int(rows[i]), j))
    return [
        _couple(gain, int(useful[i]), int(useful[j]), _quarters(true[i], true[j], weights), cuts)
        for kind in (True, False)
        for gain, i, j in _apart(found[kind], useful, most)
    ]


def _worth(both: Gains, first: Gains, second: Gains, every: float) -> tuple[Gains, NDArray[np.bool_]]:
    """What the best join of each pair gains, and whether it is xor; −inf where one part alone decides."""
    one, other = first[:, None] - both, second[None, :] - both
    none = every - first[:, None] - second[None, :] + both
    signs = np.stack([both > 0, one > 0, other > 0, none > 0])
    gain = sum(np.maximum(quarter, 0) for quarter in (both, one, other, none))
    count = signs.sum(0)
    crossed = (count == 2) & (signs[0] == signs[3])
    return np.where(crossed | (count == 1) | (count == 3), gain, -np.inf), crossed


def _apart(found: list[tuple[float, int, int]], useful: NDArray[np.intp], most: int) -> list[tuple[float, int, int]]:
    kept: dict[tuple[int, int], tuple[float, int, int]] = {}
    for each in sorted(found, key=lambda one: -one[0]):
        pair = (int(useful[each[1]]) // len(_QUANTILES), int(useful[each[2]]) // len(_QUANTILES))
        if pair[0] != pair[1]:
            kept.setdefault(pair, each)
        if len(kept) == most:
            break
    return list(kept.values())


def _quarters(first: NDArray[np.float32], second: NDArray[np.float32], weights: NDArray[np.float32]) -> list[bool]:
    """Is answering 1 right where both hold, the first alone, the second alone, neither?"""
    sides = ((first, second), (first, 1 - second), (1 - first, second), (1 - first, 1 - second))
    return [bool((one * other) @ weights > 0) for one, other in sides]


def _couple(gain: float, i: int, j: int, ones: list[bool], cuts: Array) -> Couple:
    """i, j: places among all conditions."""
    held = [(True, True), (True, False), (False, True), (False, False)]
    if sum(ones) == 1:
        join: Join = "and"
        above = held[ones.index(True)]
    elif sum(ones) == 3:
        join = "or"
        no = held[ones.index(False)]
        above = (not no[0], not no[1])
    else:
        join = "xor"
        above = (True, not ones[0])
    count = len(_QUANTILES)
    at = (float(cuts[i // count, i % count]), float(cuts[j // count, j % count]))
    return Couple(join, (i // count, j // count), at, above, gain)
