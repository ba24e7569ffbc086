"""Means over organisms, with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.stats import t

from candling.evidence.card import Figure


def mean_of(measure: str, values: Sequence[float]) -> Figure:
    """Values that are no numbers are left out; with fewer than two the interval is unknown (NaN)."""
    known = [value for value in values if not math.isnan(value)]
    n = len(known)
    if n == 0:
        return Figure(measure=measure, value=math.nan, low=math.nan, high=math.nan, n=0)
    mean = statistics.fmean(known)
    if n == 1:
        return Figure(measure=measure, value=mean, low=math.nan, high=math.nan, n=1)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(known) / math.sqrt(n)
    return Figure(measure=measure, value=mean, low=mean - half, high=mean + half, n=n)


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)
