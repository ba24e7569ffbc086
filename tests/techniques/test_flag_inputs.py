"""Detectors of odd inputs: each against its definition once more, and all against planted oddities and none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, fractional_matrix_power
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from candling.techniques.flag import DETECTORS, Fit, chance, confidence, flag_inputs

STATES = {name: fit for name, fit in DETECTORS.items() if fit not in (confidence, chance)}
D, K = 6, 3


def drawn(seed: int, rows: int = 200, odd: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of K classes in D dimensions with their classes; the last `odd` are moved along one direction."""
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(K, (rows,), generator=g)
    centres = 2 * torch.randn(K, D, generator=torch.Generator().manual_seed(8))
    x = centres[labels] + torch.randn(rows, D, generator=g) @ mixing
    if odd:
        x[-odd:] += 30 * torch.eye(D)[0]
    return x, labels


def covariance(x: Tensor) -> np.ndarray:
    """Shrunk by 1 % towards tr(C)/d·I."""
    found = np.cov(x.double().numpy().T)
    return 0.99 * found + 0.01 * np.trace(found) / len(found) * np.eye(len(found))


def slow_mahalanobis(known: Tensor, labels: Tensor, seen: Tensor) -> np.ndarray:
    inverse, middle = np.linalg.inv(covariance(known)), known.double().numpy().mean(0)
    return np.array([(row - middle) @ inverse @ (row - middle) for row in seen.double().numpy()])


def slow_relative(known: Tensor, labels: Tensor, seen: Tensor) -> np.ndarray:
    centres = {c: known[labels == c].double().numpy().mean(0) for c in labels.unique().tolist()}
    own = torch.stack([torch.from_numpy(centres[c]) for c in labels.tolist()])
    inverse = np.linalg.inv(covariance(known.double() - own))
    nearest = [min((row - c) @ inverse @ (row - c) for c in centres.values()) for row in seen.double().numpy()]
    return np.array(nearest) - slow_mahalanobis(known, labels, seen)


def slow_nearest(known: Tensor, labels: Tensor, seen: Tensor) -> np.ndarray:
    one, two = (x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1)[:, None] for x in (known, seen))
    return np.array([sorted(np.linalg.norm(one - row, axis=1))[9] for row in two])


def slow_spectral(known: Tensor, labels: Tensor, seen: Tensor) -> np.ndarray:
    x = seen.double().numpy() - seen.double().numpy().mean(0)
    return (x @ np.linalg.eigh(np.cov(x.T))[1][:, -1]) ** 2


def slow_entropy(known: Tensor, labels: Tensor, seen: Tensor) -> np.ndarray:
    whiten = fractional_matrix_power(covariance(known), -0.5).real
    white = (seen.double().numpy() - known.double().numpy().mean(0)) @ whiten
    spread = np.cov(white.T)
    power = expm(4 * (spread - np.eye(D)) / (np.linalg.norm(spread, 2) - 1))
    return np.array([row @ power @ row for row in white]) / np.trace(power)


SLOW = {
    "Mahalanobis": slow_mahalanobis,
    "relative Mahalanobis": slow_relative,
    "nearest neighbours": slow_nearest,
    "spectral": slow_spectral,
    "quantum entropy": slow_entropy,
}


@pytest.mark.parametrize("name", SLOW)
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(0, 20))
def test_scores_are_those_of_a_slow_derivation_in_float64(name, seed, odd):
    (known, labels), (seen, _) = drawn(seed), drawn(seed + 1, 60, odd)
    scores = STATES[name](known, labels, seen)(seen)
    assert np.allclose(scores, SLOW[name](known, labels, seen), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name", STATES)
def test_inputs_moved_far_along_one_direction_are_first(name):
    (known, labels), (seen, _) = drawn(1), drawn(2, 200, 16)
    scores = STATES[name](known, labels, seen)(seen)
    assert roc_auc_score([0] * 184 + [1] * 16, scores) > 0.95


@pytest.mark.parametrize("name", STATES)
def test_inputs_like_the_trusted_ones_are_told_from_them_by_chance_alone(name):
    told = []
    for seed in range(8):
        (known, labels), (held, _), (seen, _) = (drawn(3 * seed + i) for i in range(3))
        score = STATES[name](known, labels, seen)
        told.append(roc_auc_score([0] * 200 + [1] * 200, torch.cat([score(held), score(seen)])))
    assert 0.45 < np.mean(told) < 0.55


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 12), nn.ReLU(), nn.Linear(12, K)).requires_grad_(False).eval()


@pytest.mark.parametrize("attributions", [False, True])
@pytest.mark.parametrize("name", DETECTORS)
def test_scores_are_in_deviations_of_trusted_inputs_whatever_the_detector(name, attributions):
    known, _ = drawn(5, 400)
    held, found = flag_inputs(network(), known, known[1::2], DETECTORS[name], ["0", "1"], attributions=attributions)
    assert torch.allclose(held.score, found.score, atol=1e-4)
    one, _ = flag_inputs(network(), known, known[:50], DETECTORS[name], ["0"], attributions=attributions)
    assert one.score.median().abs() < 1e-5
    assert one.score.abs().median() == pytest.approx(1, abs=1e-4)


def test_confidence_sees_outputs_alone():
    known, _ = drawn(5)
    built = network()
    expected = 1 - built(known).softmax(-1).amax(-1)
    score = confidence(known, known, known)
    assert torch.allclose(score(built(known)), expected)
    one, two = (flag_inputs(built, known, known, confidence, sites)[1].score for sites in (["0"], ["0", "1"]))
    assert torch.equal(one, two)


def test_a_detector_gets_no_label_of_an_untrusted_input():
    """What it is handed: trusted states, what those are predicted as, untrusted states."""
    handed: list[tuple[Tensor, ...]] = []

    def spy(*given: Tensor):
        handed.append(given)
        return lambda states: states[:, 0]

    known, seen = drawn(1)[0], drawn(2, 30)[0]
    fit: Fit = spy
    flag_inputs(network(), known, seen, fit, ["0"])
    ((states, labels, others),) = handed
    assert torch.equal(labels, network()(known[::2]).argmax(-1))
    assert states.shape == (100, 12)
    assert others.shape == (30, 12)
