"""Spectral signature: what the untrusted states vary along most.

Question: which untrusted inputs stand far out along the one direction in which untrusted states differ most?
Source: Tran et al., 1811.00636, alg. 1: squared projection on the first principal component of the untrusted states.
Inputs: states of one layer [m, d]. Scores in squared units of the states.
Cost: the passes that give the states; one singular value decomposition.
Known failures: needs a rare and aligned shift; else the direction is that of a difference between classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.techniques.flag.contract import Scoring


def spectral(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """Squared projection on the untrusted states' first principal component."""
    centre = untrusted.mean(0)
    direction = torch.linalg.svd((untrusted - centre).double(), full_matrices=False).Vh[0].to(untrusted.dtype)
    return lambda states: ((states - centre) @ direction).square()
