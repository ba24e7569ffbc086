"""Placing: which few units of an inner site carry a program's answer?

Question: where would a mechanism be, if there is one? `carried` decides whether there is.
Source: contributions by gradients at both ends of an exchange (attribution patching); where these name no few units,
    a mask learned over them (De Cao et al., 2004.14992). Sites after the last non-linearity are left out: there any
    network looks so.
Inputs: a network, inputs that choose, the program's answers to them.
Cost: about fifteen forward passes and two backward ones of 256 inputs a site; with a mask 120 of each more a site.
Known failures: what is carried by more than half the units of every site; answers that only the last non-linearity
    puts together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import intervene, observe
from candling.access.hidden import hidden_sites
from candling.access.unlabelled import spread
from candling.techniques.verify.carried import FOLLOWS, STAYS, Place, Told, donors_of, exchange

SITES, WIDEST, CHOOSING = 10, 8192, 256
SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
"""Of a site's units: sizes that are tried."""
_SURER = 0.05  # than passing takes, since what was chosen looks better than it is
_BENT, _SPREAD = 1e-3, 64
_STEPS, _RATE, _SPARSE = 60, 0.15, 1.0  # of a mask's learning; nats that a whole site costs


def find_place(module: nn.Module, told: Told, *, seed: int) -> Place | None:
    """The smallest share of any site's units that carries the answer, on inputs that choose; else the best.

    Units in the order of their gradients; where no share of any site does by these, in that of a learned mask.
    """
    g = np.random.default_rng(seed)
    few = told.take(g.permutation(len(told))[:CHOOSING])
    sites = inner_sites(module, few.x)
    by_gradient = _best_place(module, few, [(site, _by_gradient(module, site, few, g)) for site in sites], g)
    if by_gradient is None:
        return None
    if by_gradient.enough:
        return by_gradient.place
    many = told.take(g.permutation(len(told))[: 2 * CHOOSING])
    by_mask = _best_place(module, many, [(site, learned_order(module, site, told, g)) for site in sites], g)
    return max(by_gradient, by_mask or by_gradient, key=lambda each: each.key).place


@dataclass(frozen=True)
class _Tried:
    place: Place
    worth: float
    """Of pairs, the share that follows, or that stays, whichever is less."""
    share: float

    @property
    def enough(self) -> bool:
        return self.worth >= max(FOLLOWS, STAYS) + _SURER

    @property
    def key(self) -> tuple[float, float]:
        return (1.0 - self.share if self.enough else -1.0, self.worth)


def _best_place(
    module: nn.Module, told: Told, ranked: Sequence[tuple[str, NDArray[np.intp] | None]], g: np.random.Generator
) -> _Tried | None:
    """Of each site's units, the best first, the smallest share that is enough; of sites, the smallest share."""
    best: _Tried | None = None
    for site, order in ranked:
        if order is None:
            continue
        for share in SHARES:
            units = order[: max(1, round(share * len(order)))]
            place = Place(site, tuple(sorted(int(unit) for unit in units)), len(order))
            follows, stays = exchange(module, place, told, g)
            tried = _Tried(place, min(follows.mean(), stays.mean()) if len(follows) else 0.0, share)
            if best is None or tried.key > best.key:
                best = tried
            if tried.enough:
                break
    return best


def learned_order(module: nn.Module, site: str, told: Told, g: np.random.Generator) -> NDArray[np.intp] | None:
    """Units by a mask in 0..1: exchanged by it the donor's answer is to come, exchanged by its rest none."""
    state = observe(module, told.x, [site]).activations[site].flatten(1)
    answers, weight = torch.from_numpy(told.answers), torch.zeros(state.shape[1], requires_grad=True)
    steps = torch.optim.Adam([weight], _RATE)
    for _ in range(_STEPS):
        drawn = g.permutation(len(told))[:CHOOSING]
        donors = donors_of(told.take(drawn), g)
        if donors is None:
            return None
        rows, others = (torch.from_numpy(drawn[each]) for each in donors)
        mask = torch.sigmoid(weight)
        base, donor, loss = state[rows], state[others], _SPARSE * mask.mean()
        for mixed, wanted in ((base + mask * (donor - base), others), (donor + mask * (base - donor), rows)):
            logits = spread(intervene(module, told.x[rows], {site: partial(_replaced, mixed)}, grad=True))
            loss = loss + cross_entropy(logits, answers[wanted])
        steps.zero_grad()
        loss.backward()
        steps.step()
    return np.argsort(-weight.detach().numpy(), kind="stable")


def _replaced(state: Tensor, own: Tensor) -> Tensor:
    return state.view_as(own)


def inner_sites(module: nn.Module, x: Tensor) -> list[str]:
    """Sites that hold something else than the input, and before the last non-linearity."""
    found = []
    for site in hidden_sites(module, x[:2], SITES):
        state = observe(module, x[:4], [site]).activations[site]
        flat, given = state.flatten(1), x[:4].flatten(1).to(state.dtype)
        if flat.shape[1] > WIDEST or len(state) != len(x[:4]) or not state.is_floating_point():
            continue
        if flat.shape == given.shape and torch.equal(flat, given):
            continue
        if _bends(module, x, site):
            found.append(site)
    return found


def _bends(module: nn.Module, x: Tensor, site: str) -> bool:
    """Are logits no affine function of the site: half-way between two states are they half-way themselves?"""
    base = x[torch.linspace(0, len(x) - 1, min(len(x), _SPREAD)).long()]
    other = base.roll(len(base) // 2, 0)
    state = observe(module, base, [site]).activations[site]
    donor = observe(module, other, [site]).activations[site]
    ends = [_with(module, base, site, each) for each in (state, donor, (state + donor) / 2)]
    middle = (ends[0] + ends[1]) / 2
    return float((ends[2] - middle).abs().max()) > _BENT * float((ends[0] - ends[1]).abs().max() + 1e-9)


def _with(module: nn.Module, x: Tensor, site: str, state: Tensor) -> Tensor:
    return spread(intervene(module, x, {site: lambda _: state}))


def _by_gradient(module: nn.Module, site: str, told: Told, g: np.random.Generator) -> NDArray[np.intp] | None:
    """Units by how far exchanging each with a donor of another answer moves the lead the donor's way."""
    donors = donors_of(told, g)
    if donors is None:
        return None
    rows, others = donors
    state = observe(module, told.x, [site]).activations[site].flatten(1)
    gradient = _gradient(module, site, told)
    sign = torch.from_numpy(np.where(told.answers[others] > told.answers[rows], 1.0, -1.0)).to(state.dtype)
    moved = sign[:, None] * (gradient[rows] + gradient[others]) / 2 * (state[others] - state[rows])
    return np.argsort(-moved.mean(0).numpy(), kind="stable")


def _gradient(module: nn.Module, site: str, told: Told) -> Tensor:
    """[n, units] of the lead of higher classes over lower ones; over the first logit for two classes."""
    shape = observe(module, told.x, [site]).activations[site]
    nudge = torch.zeros_like(shape, requires_grad=True)
    logits = spread(intervene(module, told.x, {site: lambda state: state + nudge}, grad=True))
    weights = torch.arange(logits.shape[1], dtype=logits.dtype)
    lead = (logits * (weights - weights.mean())).sum()
    (gradient,) = torch.autograd.grad(lead, nudge)
    return gradient.flatten(1)
