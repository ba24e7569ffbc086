"""A monotone curve of detection against dose, fitted over a few dozen caught-or-missed plants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LEVEL = np.linspace(-8, 8, 161)  # logit of the catch rate at dose 0.5
_SLOPE = np.arange(-60, 61) / 5  # of one sign over the whole range: the curve is monotone


@dataclass(frozen=True)
class DoseCurve:
    """Posterior of `P(caught | dose) = sigmoid(level + slope (dose − 0.5))`: monotone, up or down.

    The direction is left to the data. More poison is easier to see; but a trigger that covers more of the
    input is harder to tell from a natural change of class, once it took.
    """

    weight: Array
    """Posterior mass on the grid of levels × slopes."""

    def at(self, dose: float) -> tuple[float, float, float]:
        """Mean and central 95 % credible interval of the catch rate at one dose."""
        rate = _sigmoid(_LEVEL[:, None] + _SLOPE[None, :] * (dose - 0.5)).ravel()
        order = np.argsort(rate, kind="stable")
        mass = np.cumsum(self.weight.ravel()[order])
        low, high = rate[order][np.searchsorted(mass, [0.025, 0.975])]
        return float(rate @ self.weight.ravel()), float(low), float(high)

    def limit(self, rate: float, doses: Array) -> tuple[float, float] | None:
        """The stretch of `doses` (ascending) over which the mean catch rate is at least `rate`."""
        enough = [float(d) for d in doses if self.at(float(d))[0] >= rate]
        return (enough[0], enough[-1]) if enough else None


def fit_dose_curve(doses: Array, caught: NDArray[np.bool_]) -> DoseCurve:
    """Bayesian logistic regression on a grid, rising or falling, whichever is likelier.

    Priors: level ~ Normal(0, 2), slope ~ Normal(0, 4). With no plants at all the prior remains, and its
    wide interval says so. doses: [n] in 0..1; caught: [n]. Deterministic.
    """
    logit = _LEVEL[:, None, None] + _SLOPE[None, :, None] * (np.asarray(doses) - 0.5)
    likelihood = np.where(caught, -np.logaddexp(0, -logit), -np.logaddexp(0, logit)).sum(-1)
    log = likelihood - (_LEVEL[:, None] / 2) ** 2 / 2 - (_SLOPE[None, :] / 4) ** 2 / 2
    weight = np.exp(log - log.max())
    # A mixture of rising and falling curves would not be monotone: the likelier direction is taken, and a
    # level curve where the data favour neither.
    lean = weight[:, _SLOPE > 0].sum() - weight[:, _SLOPE < 0].sum()
    sign = 0 if abs(lean) <= 1e-9 * weight.sum() else np.sign(lean)
    weight = weight * (np.sign(_SLOPE) * sign >= 0) if sign else weight * (_SLOPE == 0)
    return DoseCurve(weight / weight.sum())


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
