"""Relative Mahalanobis distance: far from every class, more than from the trusted states as a whole.

Question: which inputs are in a state that belongs to no class?
Source: Ren et al., 2106.09022, eq. 2–3: least class distance, covariance shared, minus that of `mahalanobis`.
Inputs: states of one layer [n, d], and the classes that trusted ones are predicted as. Scores in squared deviations.
Cost: the passes that give the states; two d×d inverses.
Known failures: a trigger whose inputs look like their target class; classes with few trusted inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.maths.spread import Spread
from candling.techniques.flag.contract import Scoring


def relative_mahalanobis(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """Least squared distance from a class centre, less that from the whole."""
    classes = labels.unique()
    centres = torch.stack([trusted[labels == each].mean(0) for each in classes])
    own = centres[torch.searchsorted(classes, labels)]
    within, whole = Spread.of(trusted - own), Spread.of(trusted)

    def score(states: Tensor) -> Tensor:
        apart = within.distance(states[:, None] - centres)
        return apart.amin(1) - whole.distance(states)

    return score
