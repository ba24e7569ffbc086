"""Mahalanobis distance: states far from the trusted ones, in their own units.

Question: which inputs put a layer into a state that trusted inputs do not?
Source: Lee et al., 1807.03888, with one class; the covariance is shrunk by 1 % towards tr(C)/d·I.
Inputs: states of one layer [n, d]. Scores in squared standard deviations.
Cost: the passes that give the states; one d×d inverse.
Known failures: language models with sparse triggers (use the difference from clean relatives); an innocent input of
    another sort is far away as well.
"""

from __future__ import annotations

from torch import Tensor

from candling.maths.spread import Spread
from candling.techniques.flag.contract import Scoring


def mahalanobis(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """Squared distance from the trusted states."""
    return Spread.of(trusted).distance
