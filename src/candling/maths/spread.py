"""Mahalanobis distance from a sample, with a covariance that can always be inverted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SHRINKAGE = 0.01


@dataclass(frozen=True)
class Spread:
    """Mean and inverse covariance of a sample of vectors (Lee et al., 1807.03888, with one class)."""

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Spread:
        """[n, d]; the covariance is shrunk by 1 % towards tr(C)/d·I."""
        covariance = torch.cov(vectors.double().T)
        width = len(covariance)
        floor = covariance.trace() / width + 1e-12
        eye = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * floor * eye
        return cls(vectors.mean(0), torch.linalg.inv(shrunk).to(vectors.dtype))

    def distance(self, vectors: Tensor) -> Tensor:
        """[..., d] → [...] squared Mahalanobis distance"""
        centred = vectors - self.mean
        distance: Tensor = ((centred @ self.inverse) * centred).sum(-1)
        return distance
