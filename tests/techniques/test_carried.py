"""The mechanism: planted units are found and pass, and wrong units, wrong variables and last layers do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from candling.techniques.verify.carried import Place, Told, examine
from candling.techniques.verify.placing import find_place, inner_sites, learned_order

GRID = torch.cartesian_prod(torch.arange(14), torch.arange(14)).float()
A, B = GRID.long().numpy().T
CHOOSING, TESTING = np.arange(0, 196, 2), np.arange(1, 196, 2)


class Planted(nn.Module):
    """Lead = 4.5 − |a + b − 13| through two units of sixteen; the others hold other things and hardly matter."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.first, self.act, self.head = nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)
        weight = torch.randn(16, 2, generator=g)
        weight[3], weight[9] = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0])
        bias = torch.randn(16, generator=g)
        bias[3], bias[9] = -13.0, 13.0
        out = 0.002 * torch.randn(2, 16, generator=g)
        out[1, 3], out[1, 9] = -1.0, -1.0
        with torch.no_grad():
            for own, value in zip(self.parameters(), (weight, bias, out, torch.tensor([0, 4.5])), strict=True):
                own.copy_(value)
        self.requires_grad_(False).eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.act(self.first(x)))
        return logits


NETWORK = Planted()


def told(rows: np.ndarray, scores: np.ndarray = A + B, middle: float = 13) -> Told:
    return Told(GRID[rows], (np.abs(scores[rows] - middle) < 4.5).astype(np.int64), scores[rows].astype(float))


def test_the_program_is_what_the_network_answers() -> None:
    assert (NETWORK(GRID).argmax(1).numpy() == (np.abs(A + B - 13) < 4.5)).all()


def test_sites_after_the_last_bend_are_left_out() -> None:
    assert inner_sites(NETWORK, GRID) == ["first"]


def test_the_planted_units_are_found_and_pass() -> None:
    place = find_place(NETWORK, told(CHOOSING), seed=0)
    assert place is not None
    assert (place.site, place.units, place.of) == ("first", (3, 9), 16)
    site = examine(NETWORK, place, told(TESTING), seed=1)
    assert site.passed, site.reason
    assert site.follows.value > 0.95
    assert site.stays.value > 0.95
    assert site.forecast.value > 0.95
    assert site.overlap == 0
    assert site.ablated.value < 0.75 < site.ablated_others.value
    assert max(abs(f - o) for f, o in zip(site.curve.forecast, site.curve.observed, strict=True)) < 0.2


def test_a_learned_mask_puts_the_planted_units_first() -> None:
    order = learned_order(NETWORK, "first", told(CHOOSING), np.random.default_rng(0))
    assert order is not None
    assert {int(unit) for unit in order[:2]} == {3, 9}


@pytest.mark.parametrize("units", [(0, 1), (4, 11, 12), (3, 5)])
def test_other_units_are_rejected(units: tuple[int, ...]) -> None:
    assert not examine(NETWORK, Place("first", units, 16), told(TESTING), seed=1).passed


@pytest.mark.parametrize(("scores", "middle"), [(A - B, 0.0), (A, 6.5), (B + 0 * A, 6.5)])
def test_another_variable_at_the_right_units_is_rejected(scores: np.ndarray, middle: float) -> None:
    site = examine(NETWORK, Place("first", (3, 9), 16), told(TESTING, scores, middle), seed=1)
    assert not site.passed
    assert site.forecast.value < 0.85


def test_a_control_that_must_overlap_says_so() -> None:
    site = examine(NETWORK, Place("first", tuple(range(12)), 16), told(TESTING), seed=1)
    assert site.overlap == pytest.approx(8 / 12)
