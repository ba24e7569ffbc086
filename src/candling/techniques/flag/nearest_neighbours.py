"""Nearest neighbours: states with no trusted state near them.

Question: which inputs are in a state that no trusted input comes near?
Source: Sun et al., 2204.06507: Euclidean distance to the k-th nearest trusted state, both scaled to length 1.
Inputs: states of one layer [n, d]. Scores from 0 to 2.
Cost: the passes that give the states; n·d for each input.
Known failures: thin trusted data; many dimensions that vary and mean nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from candling.techniques.flag.contract import Scoring

K = 10


def nearest_neighbours(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """Distance to the tenth nearest trusted state."""
    known = normalize(trusted, dim=1)

    def score(states: Tensor) -> Tensor:
        apart = torch.cdist(normalize(states, dim=1), known)
        return apart.kthvalue(min(K, len(known)), dim=1).values

    return score
