"""Quantum entropy: states along the directions in which untrusted states spread more than trusted ones.

Question: which untrusted inputs lie where the untrusted states are wider than the trusted?
Source: Hayase et al., 2104.11315, eq. 2: hᵀ exp(α(Σ̃ − I)/(‖Σ̃‖ − 1)) h / tr(exp(…)), α = 4, with h and Σ̃ whitened by
    the trusted covariance (a published implementation uses the unwhitened one in the exponent).
Inputs: states of one layer [n, d]. Scores in squared standard deviations.
Cost: the passes that give the states; two eigendecompositions d×d.
Known failures: as spectral signatures when odd inputs are many; a single odd input has no spread of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.techniques.flag.contract import Scoring

ALPHA = 4.0
_SHRINKAGE = 0.01


def quantum_entropy(trusted: Tensor, labels: Tensor, untrusted: Tensor) -> Scoring:
    """Quantum entropy of untrusted states, whitened by the trusted."""
    centre = trusted.double().mean(0)
    whiten = _inverse_root(torch.cov(trusted.double().T))
    seen = (untrusted.double() - centre) @ whiten
    values, vectors = torch.linalg.eigh(torch.cov(seen.T))
    # Where nothing is wider than among trusted states, all directions count alike.
    excess = (values - 1) / (values[-1] - 1).clamp_min(1e-6) if values[-1] > 1 else torch.zeros_like(values)
    weights = torch.softmax(ALPHA * excess, 0)

    def score(states: Tensor) -> Tensor:
        white = (states.double() - centre) @ whiten @ vectors
        weighted: Tensor = white.square() @ weights
        return weighted.to(states.dtype)

    return score


def _inverse_root(covariance: Tensor) -> Tensor:
    width = len(covariance)
    floor = covariance.trace() / width + 1e-12
    eye = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    values, vectors = torch.linalg.eigh((1 - _SHRINKAGE) * covariance + _SHRINKAGE * floor * eye)
    root: Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    return root
