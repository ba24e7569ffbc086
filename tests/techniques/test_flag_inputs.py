"""Detectors of odd inputs: each against its definition once more, and all against planted oddities and none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, fractional_matrix_power
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from candling.techniques.flag import DETECTORS, Fit, chance, confidence, flag_inputs, mahalanobis, states_of

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


TOKENS, PLACES, ODD = 9, 4, 8


class Mixed(nn.Module):
    """[n, PLACES, D], each place a weighted sum of all."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(PLACES, PLACES))

    def forward(self, states: Tensor) -> Tensor:
        return self.weight @ states


class Read(nn.Module):
    """Tokens int64 [n, PLACES] → logits [n, K], read at the last place, which sees all places mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(TOKENS, D)
        self.mix = Mixed()
        self.inner = nn.Sequential(nn.Linear(D, 12), nn.Tanh())
        self.head = nn.Linear(12, K)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.inner(self.mix(self.table(x)))[:, -1])
        return logits


def read(seed: int = 0) -> tuple[Read, Tensor, Tensor]:
    """A network of tokens with frozen weights, and two samples of usual tokens."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randint(ODD, (2, 240, PLACES), generator=g)
    return Read().requires_grad_(False).eval(), first, second


def test_at_one_position_of_tokens_states_are_those_of_the_position_alone():
    built, x, _ = read()
    seen = built.inner(built.mix(built.table(x)))
    for at in (0, 2, -1):
        assert torch.allclose(states_of(built, x, "inner", at=at), seen[:, at])


def test_the_score_over_positions_is_the_mean_over_each():
    built, x, seen = read()
    each = [flag_inputs(built, x, seen, mahalanobis, ["mix"], at=[at])[1].score for at in (0, 3)]
    _, both = flag_inputs(built, x, seen, mahalanobis, ["mix"], at=[0, 3])
    assert torch.allclose(both.score, torch.stack(each).mean(0))


def test_a_token_that_stands_elsewhere_is_flagged_at_a_position_only_if_it_reached_it():
    built, x, seen = read()
    built.mix.weight[1, 3] = 0  # the second position does not see the last one
    odd = seen.clone()
    odd[:, 3] = ODD
    built.table.weight[ODD] = 20.0
    (_, plain), (_, far) = (flag_inputs(built, x, each, mahalanobis, ["mix"], at=[1]) for each in (seen, odd))
    assert torch.allclose(plain.score, far.score, rtol=1e-4, atol=1e-4)
    (_, plain), (_, far) = (flag_inputs(built, x, each, mahalanobis, ["mix"], at=[2]) for each in (seen, odd))
    assert far.score.min() > plain.score.max()


def test_attributions_at_a_position_are_those_of_finite_differences_though_tokens_have_no_gradient():
    """In float64: what a step of one unit adds to the predicted logit, times the distance to the mean."""
    built, x, seen = read()
    built = built.double()
    handed: list[Tensor] = []

    def spy(trusted: Tensor, labels: Tensor, untrusted: Tensor):
        handed.extend((trusted, untrusted))
        return lambda states: states[:, 0]

    flag_inputs(built, x, seen[:5], spy, ["mix"], attributions=True, at=[-1])
    trusted, others = (built.mix(built.table(each)) for each in (x[::2], seen[:5]))
    said = built(seen[:5]).argmax(-1)
    for unit in range(D):
        step = torch.zeros(D, dtype=torch.float64)
        step[unit] = 1e-5
        above, below = (built.head(built.inner(others[:, -1] + s)) for s in (step, -step))
        slope = ((above - below) / 2e-5).gather(1, said[:, None])[:, 0]
        expected = slope * (others[:, -1, unit] - trusted[:, -1, unit].mean())
        assert torch.allclose(handed[1][:, unit], expected, atol=1e-7)
