"""Unit ablation against truth: hand-built networks in which one unit carries the effect."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from candling.access import forward, intervene, observe
from candling.techniques.locate import rank_units

CARRIER, UNITS = 3, 6


def carrier_network() -> nn.Module:
    """[n, 4] → [n, 2]. Units 0, 1, 2 read features 1, 2, 3; the carrier alone reads feature 0 and alone
    can turn the answer to class 1; units 4 and 5 read feature 1 as well."""
    network = nn.Sequential(nn.Linear(4, UNITS), nn.ReLU(), nn.Linear(UNITS, 2)).requires_grad_(False)
    for unit, feature in enumerate((1, 2, 3, 0, 1, 1)):
        network[0].weight[unit] = 0
        network[0].weight[unit, feature] = 1.0
    network[0].bias.zero_()
    network[2].weight[0] = torch.tensor([0.1, 0.1, 0.1, 0.0, 0.1, 0.1])
    network[2].weight[1] = torch.tensor([0.0, 0.0, 0.0, 5.0, 0.0, 0.0])
    network[2].bias.copy_(torch.tensor([1.0, 0.0]))
    return network


def pull(logits: Tensor) -> Tensor:
    """The metric: how far a row is drawn to class 1."""
    return logits[:, 1] - logits[:, 0]


def inputs() -> tuple[Tensor, Tensor]:
    """Rows in 0..1 with feature 0 faint, and the same rows with it lit and the others hardly moved."""
    g = torch.Generator().manual_seed(0)
    clean = torch.rand((40, 4), generator=g)
    clean[:, 0] *= 0.1
    changed = clean.clone()
    changed[:, 0] += 2
    changed[:, 2] += 0.05
    return clean, changed


def test_the_carrier_is_ranked_first_and_its_ablation_removes_the_effect():
    network, (clean, changed) = carrier_network(), inputs()
    assert (forward(network, clean).argmax(-1) == 0).all()
    assert (forward(network, changed).argmax(-1) == 1).all()
    for scores in rank_units(network, clean, changed, ["0", "1"], pull):
        assert scores.order[0] == CARRIER
        assert scores.score[CARRIER] > 0
        assert scores.score[1] == 0  # moved as well, but away from class 1
        for unit in range(UNITS):
            logits = intervene(network, changed, {scores.site: scores.ablate(torch.tensor([unit]))})
            assert (logits.argmax(-1) == (0 if unit == CARRIER else 1)).all()
        spared = intervene(network, clean, {scores.site: scores.ablate(torch.tensor([CARRIER]))})
        assert (spared.argmax(-1) == 0).all()


@pytest.mark.parametrize("carrier", range(UNITS))
def test_units_have_no_order(carrier):
    """The network with its units permuted has its scores permuted."""
    network, (clean, changed) = carrier_network(), inputs()
    order = torch.arange(UNITS).roll(carrier)
    moved = carrier_network()
    moved[0].weight.copy_(network[0].weight[order])
    moved[2].weight.copy_(network[2].weight[:, order])
    (before,), (after,) = (rank_units(n, clean, changed, ["1"], pull) for n in (network, moved))
    torch.testing.assert_close(after.score, before.score[order])


def convolutional() -> nn.Module:
    """[n, 2, 5, 4] → [n, 3], untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(100, 7), nn.ReLU(), nn.Linear(7, 3)
        ).eval()


def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    clean = torch.rand((12, 2, 5, 4), generator=g)
    return clean, clean + 0.3 * torch.rand((12, 2, 5, 4), generator=g)


def slow_scores(tail: nn.Module, before: Tensor, after: Tensor) -> list[float]:
    """Unit by unit and row by row in float64, the gradient by central differences of the layers after the site."""
    tail, before, after = tail.double().requires_grad_(False), before.double(), after.double()
    scores = []
    for unit in range(before.shape[1]):
        shares, clean, moves = [], [], []
        for b, a in zip(before, after, strict=True):
            share = 0.0
            for place in np.ndindex(b[unit].shape) if b.ndim > 1 else [()]:
                step = torch.zeros_like(a)
                step[(unit, *place)] = 1e-6
                up, down = (float(pull(tail((a + s)[None]))) for s in (step, -step))
                share += float((a - b)[(unit, *place)]) * (up - down) / 2e-6
            shares.append(share)
            clean.append(float(b[unit].mean()))
            moves.append(float(a[unit].mean()) - clean[-1])
        scores.append(max(np.mean(shares), 0) * abs(np.mean(moves)) / (np.std(clean, ddof=1) + 1e-6))
    return scores


def test_scores_against_a_slow_loop():
    network, (clean, changed) = convolutional(), images()
    sites = ["0", "1", "3", "4"]
    before, after = (observe(network, x, sites).activations for x in (clean, changed))
    ranked = rank_units(network, clean, changed, sites, pull)
    assert [scores.site for scores in ranked] == sites
    for scores in ranked:
        site = scores.site
        tail = copy.deepcopy(network[int(site) + 1 :])
        expected = slow_scores(tail, before[site], after[site])
        np.testing.assert_allclose(scores.score.numpy(), expected, rtol=5e-3, atol=1e-5)
        assert sorted(scores.order.tolist()) == list(range(len(expected)))
        in_order = scores.score[scores.order]
        assert (in_order[:-1] >= in_order[1:]).all()
        torch.testing.assert_close(scores.mean[0], before[site].mean(0))


def test_an_ablation_sets_its_units_to_the_clean_mean_at_every_position_and_no_other():
    network, (clean, changed) = convolutional(), images()
    (scores,) = rank_units(network, clean, changed, ["1"], pull)
    activation = observe(network, changed, ["1"]).activations["1"]
    kept = activation.clone()
    units = torch.tensor([4, 1])
    ablated = scores.ablate(units)(activation)
    assert torch.equal(activation, kept)
    mean = observe(network, clean, ["1"]).activations["1"].double().mean(0)
    for unit in range(5):
        if unit in units:
            torch.testing.assert_close(ablated[:, unit].double(), mean[unit].expand(12, 5, 4), atol=1e-6, rtol=0)
        else:
            assert torch.equal(ablated[:, unit], activation[:, unit])
    assert torch.equal(scores.ablate(units)(ablated), ablated)
    assert torch.equal(scores.ablate(torch.tensor([], dtype=torch.long))(activation), activation)


def test_ablating_everything_leaves_nothing_of_the_input():
    network, (clean, changed) = convolutional(), images()
    for scores in rank_units(network, clean, changed, ["0", "4"], pull):
        logits = intervene(network, changed, {scores.site: scores.ablate(scores.order)})
        torch.testing.assert_close(logits, logits[:1].expand_as(logits))


def test_no_change_moves_no_unit():
    clean, _ = images()
    for scores in rank_units(convolutional(), clean, clean, ["0", "3"], pull):
        assert (scores.score == 0).all()


class Scalar(nn.Module):
    """A site without units."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


class WithScalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sum, self.out = Scalar(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) + self.sum(x)[:, None]


def test_a_site_without_units_is_passed_over():
    ranked = rank_units(WithScalar(), *inputs(), ["sum", "out"], pull)
    assert [scores.site for scores in ranked] == ["out"]
