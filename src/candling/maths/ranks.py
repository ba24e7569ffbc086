"""Rank tests of one network against N controls: no distribution is assumed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


_FLOOR = 0.1  # of the scores' unit: parts on which the others agree exactly must not explode


def standard_scores(scores: Array) -> Array:
    """Each part of each network against the *same part in the other networks*, in standard deviations.

    scores: [networks, parts], larger = more suspicious. The reference leaves out the network itself and
    nothing else, so that all networks are treated alike (exchangeable under the null) and parts of
    different scale compare. The deviation has a floor of 0.1.

    Raises ValueError on fewer than three networks or a score that is not finite.
    """
    n = len(scores)
    if scores.ndim != 2 or n < 3:
        raise ValueError(f"need [networks >= 3, parts] scores, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    centred = scores - scores.mean(0)  # first, so that the sums of squares do not cancel
    mean = -centred / (n - 1)
    variance = (np.square(centred).sum(0) - np.square(centred)) / (n - 1) - np.square(mean)
    z: Array = (centred - mean) / np.sqrt(np.maximum(variance, 0) + _FLOOR**2)
    return z


def max_standard_score(scores: Array, groups: Sequence[str]) -> tuple[Array, NDArray[np.intp]]:
    """How far each network stands out in its most extreme part (max-T, Westfall and Young 1993).

    The maximum is taken within each group of parts first and standardised again before the maximum over
    groups: ninety noisy parts of one objective then do not drown ten of another. Still one symmetric
    function of the networks, so the rank test on it stays exact.

    scores: [networks, parts]; groups: a name for each part. Returns the statistic [networks] and each
    network's most extreme part of every group, the most extreme one first [networks, groups].
    """
    z = standard_scores(scores)
    names = list(dict.fromkeys(groups))
    members = [np.flatnonzero([g == name for g in groups]) for name in names]
    # A group on which all networks agree (no search ever succeeded, say) tells none from another.
    members = [m for m in members if np.ptp(scores[:, m], axis=0).any()] or members[:1]
    tops = np.stack([z[:, m].max(1) for m in members], axis=1)
    leads = np.stack([m[z[:, m].argmax(1)] for m in members], axis=1)
    second = standard_scores(tops)
    order = np.argsort(-second, axis=1, kind="stable")
    return second.max(1), np.take_along_axis(leads, order, axis=1)


def rank_p_value(subject: float, controls: Array) -> float:
    """(1 + controls at or above the subject) / (N + 1): exact when subject and controls are exchangeable."""
    if not np.isfinite(subject) or not np.isfinite(controls).all():
        raise ValueError("a statistic is not finite")
    return float(1 + (controls >= subject).sum()) / (len(controls) + 1)


def conformal_p_value(values: Array, slack: float = 0.0) -> tuple[Array, float]:
    """Does the first value belong with the others? (split-free conformal test, Vovk et al. 2005)

    Distance of each value from the median of all *others*; p = share of distances at or above the first's.
    values: [n], the subject first. slack: distances up to it count as none. Returns the distances [n] and p.
    """
    distances = np.array([abs(v - np.median(np.delete(values, i))) for i, v in enumerate(values)])
    distances = np.maximum(distances - slack, 0.0)
    return distances, rank_p_value(float(distances[0]), distances[1:])
