"""A probe is ridge regression, whatever the features' scale; a feature that never moves says nothing."""

from __future__ import annotations

import numpy as np
import torch

from candling.maths.probes import fit_probe


def drawn(n: int = 60, d: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    return torch.randn(n, d, generator=g) + 2 * torch.nn.functional.one_hot(y, d), y


def test_it_solves_the_normal_equations_of_ridge_regression():
    x, y = drawn()
    z = x.double().numpy()
    z = (z - z.mean(0)) / z.std(0)
    target = np.eye(3)[y]
    # Ridge as plain least squares with rows added: sqrt(n λ) I beside z, zeros beside the target.
    rows = np.vstack([z, np.sqrt(0.1 * len(z)) * np.eye(z.shape[1])])
    weights = np.linalg.lstsq(rows, np.vstack([target - target.mean(0), np.zeros((z.shape[1], 3))]), rcond=None)[0]
    np.testing.assert_allclose(fit_probe(x, y, 3)(x).numpy(), z @ weights + target.mean(0), atol=1e-9)


def test_scales_shifts_and_constants_do_not_matter():
    x, y = drawn()
    other = torch.cat([x * torch.tensor([1.0, 1e3, 1e-3, 5.0, 1.0]) + 7, torch.full((len(x), 1), 3.0)], 1)
    torch.testing.assert_close(fit_probe(other, y, 3)(other), fit_probe(x, y, 3)(x), atol=1e-3, rtol=0)
    moved = other.clone()
    moved[:, -1] = 1e6
    torch.testing.assert_close(fit_probe(other, y, 3)(moved), fit_probe(other, y, 3)(other))


def test_with_fewer_rows_than_features_the_weights_are_the_same():
    """Features that say nothing new: each is given twenty times, so that there are more of them than rows."""
    x, y = drawn()
    wide = torch.cat([x] * 20, 1)
    z = ((wide - wide.mean(0)) / wide.std(0, correction=0)).double().numpy()
    target = np.eye(3)[y]
    rows = np.vstack([z, np.sqrt(0.1 * len(z)) * np.eye(z.shape[1])])
    weights = np.linalg.lstsq(rows, np.vstack([target - target.mean(0), np.zeros((z.shape[1], 3))]), rcond=None)[0]
    np.testing.assert_allclose(fit_probe(wide, y, 3)(wide).numpy(), z @ weights + target.mean(0), atol=1e-6)
