"""A linear probe: what can be read off states by one linear map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_RIDGE = 0.1  # of the mean variance of a feature


def fit_probe(states: Tensor, y: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """Ridge regression of the one-hot class on standardised states. states: [n, d], y: int64 [n].

    Returns states [m, d] → scores [m, classes], float64. A feature without variance counts for nothing.
    """
    x = states.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    used = deviation > 1e-9
    scale = torch.where(used, deviation, torch.ones_like(deviation))

    def standard(given: Tensor) -> Tensor:
        return torch.where(used, (given.double() - mean) / scale, 0.0)

    z, target = standard(states), torch.eye(classes, dtype=x.dtype, device=x.device)[y]
    level = target.mean(0)
    narrow = z.shape[1] <= len(z)
    ridge = _RIDGE * torch.eye(min(z.shape), dtype=z.dtype, device=z.device)
    if narrow:
        weights = torch.linalg.solve(z.T @ z / len(z) + ridge, z.T @ (target - level) / len(z))
    else:  # the same weights, by a system of as many unknowns as there are rows
        weights = z.T @ torch.linalg.solve(z @ z.T / len(z) + ridge, (target - level) / len(z))
    return lambda given: standard(given) @ weights + level
