"""Mahalanobis distance against its definition, and theorems on what shrinkage does to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from candling.maths.spread import Spread

SEEDS = st.integers(0, 2**31)
WIDTHS = st.integers(2, 9)


def sample(n: int, d: int, seed: int) -> Tensor:
    """[n, d] float64, with coordinates that go together and differ in size."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + 5 * torch.randn(d, generator=g)


def slow(vectors: Tensor, points: Tensor, shrinkage: float = 0.01) -> np.ndarray:
    """By loops over sums, and a linear solve in place of an inverse."""
    x, d = vectors.double().numpy(), vectors.shape[1]
    mean = sum(x) / len(x)
    covariance = sum(np.outer(row - mean, row - mean) for row in x) / (len(x) - 1)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    return np.array([(p - mean) @ np.linalg.solve(shrunk, p - mean) for p in points.double().numpy()])


@settings(max_examples=60)
@given(st.integers(12, 60), WIDTHS, SEEDS)
def test_distances_are_those_of_the_definition(n, d, seed):
    vectors, points = sample(n, d, seed), sample(7, d, seed + 1)
    expected = slow(vectors, points)
    np.testing.assert_allclose(Spread.of(vectors).distance(points), expected, rtol=1e-6)
    single = Spread.of(vectors.float()).distance(points.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, expected, rtol=5e-3)


def test_any_leading_shape():
    spread, points = Spread.of(sample(30, 4, 0)), sample(24, 4, 1)
    shaped = spread.distance(points.reshape(2, 3, 4, 4))
    assert shaped.shape == (2, 3, 4)
    torch.testing.assert_close(shaped.flatten(), spread.distance(points))
    assert spread.distance(points[0]).shape == ()


@settings(max_examples=60)
@given(st.integers(3, 60), WIDTHS, SEEDS)
def test_the_mean_is_at_no_distance_and_all_else_at_some(n, d, seed):
    vectors = sample(n, d, seed)
    spread = Spread.of(vectors)
    assert float(spread.distance(vectors.mean(0))) == 0
    assert (spread.distance(vectors.mean(0) + torch.eye(d, dtype=torch.float64)) > 0).all()


@settings(max_examples=60)
@given(st.integers(12, 60), WIDTHS, SEEDS, st.floats(1e-2, 1e2))
def test_turning_moving_and_scaling_alike_change_nothing(n, d, seed, scale):
    vectors, points = sample(n, d, seed), sample(5, d, seed + 1)
    g = torch.Generator().manual_seed(seed + 2)
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    move = torch.randn(d, generator=g, dtype=torch.float64)

    def moved(x: Tensor) -> Tensor:
        return scale * x @ turn + move

    before, after = Spread.of(vectors).distance(points), Spread.of(moved(vectors)).distance(moved(points))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-9)


@settings(max_examples=60)
@given(st.integers(20, 60), WIDTHS, SEEDS)
def test_any_affine_map_changes_it_by_no_more_than_shrinkage_can(n, d, seed):
    """(1−λ)C ≼ shrunk C ≼ (1−λ + λ·t/λ_min)·C, t = tr C / d; and the unshrunk distance does not change at all."""
    vectors, points = sample(n, d, seed), sample(5, d, seed + 1)
    g = torch.Generator().manual_seed(seed + 2)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) + 2 * torch.eye(d)
    unshrunk = slow(vectors, points, shrinkage=0)
    np.testing.assert_allclose(slow(vectors @ mix, points @ mix, shrinkage=0), unshrunk, rtol=1e-3)
    for x, p in ((vectors, points), (vectors @ mix, points @ mix)):
        found = Spread.of(x).distance(p).numpy()
        spectrum = np.linalg.eigvalsh(np.cov(x.numpy().T))
        assert (found <= unshrunk / 0.99 * (1 + 1e-3)).all()
        assert (found >= unshrunk / (0.99 + 0.01 * spectrum.mean() / spectrum.min()) * (1 - 1e-3)).all()


@settings(max_examples=60)
@given(st.integers(2, 40), WIDTHS, SEEDS)
def test_over_the_sample_itself_the_distances_add_up_to_a_bounded_number(n, d, seed):
    """Σ dᵢ² = (n−1)·tr(C·shrunk⁻¹) = (n−1)·Σ λⱼ/((1−a)λⱼ + a·t) ≤ (n−1)·rank/0.99"""
    vectors = sample(n, d, seed)
    spectrum = np.linalg.eigvalsh(np.cov(vectors.numpy().T)).clip(min=0)
    total = float(Spread.of(vectors).distance(vectors).sum())
    expected = (n - 1) * (spectrum / (0.99 * spectrum + 0.01 * spectrum.mean())).sum()
    assert total == pytest.approx(expected, rel=1e-5)
    assert total <= (n - 1) * min(d, n - 1) / 0.99 * (1 + 1e-6)


DEGENERATE = {
    "fewer samples than dimensions": sample(5, 40, 0),
    "two samples": sample(2, 6, 1),
    "a constant coordinate": torch.cat([sample(30, 5, 2), torch.full((30, 1), 3.0)], 1),
    "a coordinate twice": sample(30, 6, 3)[:, [0, 1, 2, 3, 4, 4]],
    "no spread at all": torch.full((9, 6), 2.5),
    "all zero": torch.zeros(9, 6),
    "tiny": 1e-6 * sample(30, 6, 4),
    "large": 1e6 * sample(30, 6, 5),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_sample_gives_finite_distances(name, dtype):
    vectors = DEGENERATE[name].to(dtype)
    spread = Spread.of(vectors)
    width = vectors.shape[1]
    away = vectors.mean(0) + torch.eye(width, dtype=dtype) * max(1e-3, float(vectors.std()))
    for points in (vectors, vectors.mean(0), away):
        assert torch.isfinite(spread.distance(points)).all()
    assert float(spread.distance(vectors.mean(0))) == 0
    assert (spread.distance(away) > 0).all()


def test_a_direction_without_spread_is_farther_than_one_with():
    """Ten to one in variance and the same step: what never happens counts for more than what often does."""
    vectors = DEGENERATE["a constant coordinate"]
    spread = Spread.of(vectors)
    steps = spread.distance(vectors.mean(0) + torch.eye(6, dtype=vectors.dtype))
    assert int(steps.argmax()) == 5
