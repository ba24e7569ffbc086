"""Local outlier factor: states in a thinner place than their neighbours are.

Question: which inputs are in a state that is lonelier than the trusted states around it?
Source: Breunig et al. 2000, as scikit-learn has it, with 20 neighbours; as a detector of odd mechanisms 2504.08812.
Inputs: states of one layer [n, d]. 1 = as dense as its neighbours, more = an outlier.
Cost: the passes that give the states; n·d for each input.
Known failures: groups of odd inputs among the trusted ones; fewer trusted inputs than neighbours.
"""

from __future__ import annotations

import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from candling.techniques.flag.contract import Scoring

NEIGHBOURS = 20


def local_outlier(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """The local outlier factor among trusted states."""
    fitted = LocalOutlierFactor(n_neighbors=min(NEIGHBOURS, len(trusted) - 1), novelty=True)
    fitted.fit(trusted.double().cpu().numpy())

    def score(states: Tensor) -> Tensor:
        found = -fitted.score_samples(states.double().cpu().numpy())
        return torch.from_numpy(found).to(states)

    return score
