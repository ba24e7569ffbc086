"""Several problem classes in one run: where a network stands in all of them together (max-T over classes)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from candling.maths.ranks import standard_scores

Array = NDArray[np.float64]

Key = tuple[bool, int, float]
"""How extreme a network is in one class, to be compared between classes; larger = more extreme.

Whether its lead passed the confirming experiment; minus the number of networks at or above it within the class;
among those of one rank, how far its statistic lies from the others', in their standard deviations.
"""


def keys(statistics: Array, passed: Sequence[bool]) -> list[Key]:
    """One for each network of a class's comparison.

    statistics: [n >= 3], larger = more suspicious; passed: [n]. Ranks make unlike statistics comparable, and the
    standard score only orders those of one rank, so that a class with heavy tails drowns no other.
    """
    pairs = list(zip(passed, statistics.tolist(), strict=True))
    scores = standard_scores(statistics[:, None])[:, 0].tolist()
    return [(own[0], -sum(other >= own for other in pairs), z) for own, z in zip(pairs, scores, strict=True)]


def family_p_value(own: Key, negatives: Sequence[Sequence[Key]]) -> float:
    """(1 + negatives that are as extreme in *any* class) / (N + 1).

    own: the network in one class; negatives: for each class, the same N negatives in the same order. Exact for the
    class in which the network is most extreme where every class compares the network with its negatives.
    """
    most = [max(each) for each in zip(*negatives, strict=True)]
    return float(1 + sum(top >= own for top in most)) / (len(most) + 1)
