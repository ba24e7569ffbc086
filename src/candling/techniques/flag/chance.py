"""Chance: the null that every detector of odd inputs is set beside.

Question: what does a score that knows nothing reach?
Source: a generator's uniform numbers.
Inputs: states of one layer [n, d], of which only the number counts. Scores from 0 to 1.
Cost: none beyond the passes that give the states.
Known failures: all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.techniques.flag.contract import Scoring


def chance(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """The same numbers for as many rows each time, so that a run can be repeated."""

    def score(states: Tensor) -> Tensor:
        return torch.rand(len(states), generator=torch.Generator().manual_seed(len(states))).to(states.device)

    return score
