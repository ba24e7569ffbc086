"""The best band of many scores at once, exactly, and the best staircase of one.

A band is a run of neighbouring scores. Which band gains most is the maximum-subarray problem (Kadane; Bentley,
Programming Pearls, 1984) over the sorted scores, with cuts allowed only between different scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scores = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Sorted:
    """Scores [f, n] in rising order, kept so that many gains can be tried on them."""

    order: NDArray[np.intp]
    """[f, n] which input stands at each rank."""
    scores: Scores
    """[f, n] in rising order."""
    cuttable: NDArray[np.bool_]
    """[f, n + 1] may a band begin or end before this rank? Never inside a tie."""

    @classmethod
    def of(cls, scores: Scores) -> Sorted:
        """scores: [f, n], finite."""
        order = np.argsort(scores, axis=1)
        rising = np.take_along_axis(scores, order, 1)
        cuttable = np.ones((len(scores), scores.shape[1] + 1), dtype=np.bool_)
        cuttable[:, 1:-1] = rising[:, 1:] != rising[:, :-1]
        return cls(order, rising, cuttable)

    def best(self, gains: Array) -> Bands:
        """The band of each row in which the gains [n] add up to most; the empty band gains nothing."""
        total = np.zeros(self.cuttable.shape)
        np.cumsum(gains[self.order], axis=1, out=total[:, 1:])
        starts = np.where(self.cuttable, total, np.inf)
        lowest = np.minimum.accumulate(starts, axis=1)
        ends = np.where(self.cuttable, total - lowest, -np.inf)
        end = ends.argmax(1)
        rows = np.arange(len(end))
        reached = lowest[rows, end]
        start = (starts == reached[:, None]).argmax(1)
        return Bands(ends[rows, end], self._cut(start), self._cut(end))

    def _cut(self, at: NDArray[np.intp]) -> Array:
        """A threshold between the scores at ranks `at` − 1 and `at`."""
        rows, n = np.arange(len(at)), self.scores.shape[1]
        above = self.scores[rows, np.minimum(at, n - 1)].astype(np.float64)
        below = self.scores[rows, np.maximum(at - 1, 0)].astype(np.float64)
        middle = (above + below) / 2
        middle = np.where(middle > below, middle, above)  # neighbouring floats have no middle
        cuts: Array = np.where(at == 0, -np.inf, np.where(at == n, np.inf, middle))
        return cuts


@dataclass(frozen=True, eq=False)
class Bands:
    """A band a row: scores s with low <= s < high."""

    gain: Array
    low: Array
    high: Array


def best_bands(scores: Scores, gains: Array) -> Bands:
    """Of each row of scores [f, n], the band in which the gains [n] add up to most."""
    return Sorted.of(scores).best(gains)


def staircase(
    values: Scores, answers: NDArray[np.int64], classes: int, *, piece: float, error: float, most: int = 8
) -> tuple[list[float], list[int]]:
    """The cuts and answers that cost least, at so many bits a piece and an error: exact dynamic programming.

    values: [n] one feature. Above 256 different values cuts are only tried between quantiles. Returns r cuts in
    rising order and r + 1 answers: the answer is that of the first cut above the value, else the last.
    """
    edges = _edges(values)
    place = np.searchsorted(edges, values, side="right")
    counts = np.zeros((len(edges) + 1, classes))
    np.add.at(counts, (place, answers), 1)
    below = np.concatenate([np.zeros((1, classes)), counts.cumsum(0)])
    spans = below[None] - below[:, None]  # [i, j, K] inputs of each class in bins i to j − 1
    wrong = spans.sum(-1) - spans.max(-1)
    bins = len(counts)
    cost = error * wrong + np.where(np.arange(bins + 1)[:, None] < np.arange(bins + 1), piece, np.inf)
    best = np.full((most + 1, bins + 1), np.inf)
    came = np.zeros((most + 1, bins + 1), dtype=np.intp)
    best[0, 0] = 0.0
    for pieces in range(1, most + 1):
        options = best[pieces - 1][:, None] + cost
        came[pieces] = options.argmin(0)
        best[pieces] = options.min(0)
    end, cuts, said = bins, [], []
    for left in range(int(best[:, bins].argmin()), 0, -1):
        start = int(came[left, end])
        said.append(int(spans[start, end].argmax()))
        cuts.append(float(edges[start - 1]) if start else -np.inf)
        end = start
    return _joined(cuts[::-1][1:], said[::-1])


def _edges(values: Scores) -> Array:
    """Where bins part: between all different values, or between quantiles where there are too many."""
    different = np.unique(values).astype(np.float64)
    if len(different) > 256:
        different = np.unique(np.quantile(values, np.linspace(0, 1, 256), method="nearest").astype(np.float64))
    middle = (different[1:] + different[:-1]) / 2
    edges: Array = np.where(middle > different[:-1], middle, different[1:])
    return edges


def _joined(cuts: list[float], said: list[int]) -> tuple[list[float], list[int]]:
    """Neighbours with one answer are one piece."""
    kept = [place for place in range(len(cuts)) if said[place] != said[place + 1]]
    return [cuts[place] for place in kept], [said[0], *(said[place + 1] for place in kept)]


def data_bits(wrong: int | Array, n: int, classes: int) -> Array:
    """Bits that say where and how n answers differ from a program's: n·H(wrong/n) + wrong·log₂(K − 1)."""
    rate = (np.asarray(wrong, dtype=np.float64) + 0.5) / (n + 1)
    entropy = -(rate * np.log2(rate) + (1 - rate) * np.log2(1 - rate))
    bits: Array = n * entropy + np.asarray(wrong) * np.log2(max(classes - 1, 1))
    return bits
