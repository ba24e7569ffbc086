"""Carried: which few units of an inner site carry a program's answer, and do edits there do what it forecasts?

Question: is this what the network computes inside, or only what it says?
Source: interchange interventions (Geiger et al., 2106.02997) and resample ablation, with double dissociation: the
    claimed units against as many others of like spread, and against their complement; contributions by gradients at
    both ends of an exchange, and where these name no few units, a mask learned over them (De Cao et al., 2004.14992).
    Sites after the last non-linearity are left out: there any network looks so.
Inputs: a network, inputs that choose the units and others that test them, the program's answers and scores on both.
Cost: about fifteen forward passes and two backward ones of 256 inputs a site, and fifteen of the testing inputs; with
    a mask 120 of each more a site.
Known failures: what is carried by more than half the units of every site, or in directions that no unit lies along;
    answers that only the last non-linearity puts together; rare answers, of which few donors are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import intervene, observe
from candling.access.hidden import hidden_sites
from candling.access.unlabelled import spread
from candling.evidence.program import Answers
from candling.evidence.solution import Curve, Site
from candling.techniques.verify.agreement import rate

SITES, WIDEST, CHOOSING, TESTING = 10, 8192, 256, 512
SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
"""Of a site's units: sizes that are tried."""
FOLLOWS, STAYS, APART, DISSOCIATED, FORECAST, CURVE = 0.85, 0.85, 0.3, 0.15, 0.85, 0.15
"""What passing takes."""
_BENT, _SPREAD, _DRAWS, _BINS = 1e-3, 64, 3, 12
_STEPS, _RATE, _SPARSE = 60, 0.15, 1.0  # of a mask's learning; nats that a whole site costs


@dataclass(frozen=True, eq=False)
class Told:
    """Inputs with what the program says of them."""

    x: Tensor
    answers: Answers
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.answers)

    def take(self, rows: NDArray[np.intp]) -> Told:
        return Told(self.x[torch.from_numpy(rows)], self.answers[rows], self.scores[rows])


@dataclass(frozen=True, eq=False)
class Place:
    """Units of a site, by number in the flattened state of one input."""

    site: str
    units: tuple[int, ...]
    of: int


def find_place(module: nn.Module, told: Told, *, seed: int) -> Place | None:
    """The smallest share of any site's units that carries the answer, on inputs that choose; else the best.

    Units in the order of their gradients; where no share of any site does by these, in that of a learned mask.
    """
    g = np.random.default_rng(seed)
    few = told.take(g.permutation(len(told))[:CHOOSING])
    sites = inner_sites(module, few.x)
    by_gradient = _best_place(module, few, [(site, _ranked(module, site, few, g)) for site in sites], g)
    if by_gradient is None:
        return None
    if by_gradient.enough:
        return by_gradient.place
    many = told.take(g.permutation(len(told))[: 2 * CHOOSING])
    by_mask = _best_place(module, many, [(site, _learned(module, site, told, g)) for site in sites], g)
    return max(by_gradient, by_mask or by_gradient, key=lambda each: each.key).place


@dataclass(frozen=True)
class _Tried:
    place: Place
    worth: float
    """Of pairs, the share that follows, or that stays, whichever is less."""
    share: float

    @property
    def enough(self) -> bool:
        return self.worth >= max(FOLLOWS, STAYS)

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


def _learned(module: nn.Module, site: str, told: Told, g: np.random.Generator) -> NDArray[np.intp] | None:
    """Units by a mask in 0..1: exchanged by it the donor's answer is to come, exchanged by its rest none."""
    state = observe(module, told.x, [site]).activations[site].flatten(1)
    answers, weight = torch.from_numpy(told.answers), torch.zeros(state.shape[1], requires_grad=True)
    steps = torch.optim.Adam([weight], _RATE)
    for _ in range(_STEPS):
        drawn = g.permutation(len(told))[:CHOOSING]
        donors = _donors(told.take(drawn), g)
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


def _ranked(module: nn.Module, site: str, told: Told, g: np.random.Generator) -> NDArray[np.intp] | None:
    """Units by how far exchanging each with a donor of another answer moves the lead the donor's way."""
    donors = _donors(told, g)
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


def _donors(told: Told, g: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Inputs, and for each one to which the program answers otherwise; None where there is one answer."""
    rows, others = [], []
    for row, answer in enumerate(told.answers):
        able = np.flatnonzero(told.answers != answer)
        if len(able):
            rows.append(row)
            others.append(int(g.choice(able)))
    return (np.array(rows), np.array(others)) if rows else None


def patched(
    module: nn.Module, place: Place, base: Tensor, donor: Tensor, units: Sequence[int] | NDArray[np.intp]
) -> Answers:
    """Answers to `base` [n, ...] with units of the site as in `donor`."""
    state = observe(module, donor, [place.site]).activations[place.site].flatten(1)
    chosen = torch.as_tensor(np.asarray(units, dtype=np.int64))

    def edit(own: Tensor) -> Tensor:
        flat = own.flatten(1)
        flat[:, chosen] = state[:, chosen]
        return flat.view_as(own)

    return _answers(spread(intervene(module, base, {place.site: edit})))


def _answers(logits: Tensor) -> Answers:
    return np.asarray(logits.argmax(1).numpy(), dtype=np.int64)


def _said(module: nn.Module, x: Tensor) -> Answers:
    return _answers(spread(intervene(module, x, {})))


Hits = NDArray[np.bool_]


def exchange(module: nn.Module, place: Place, told: Told, g: np.random.Generator) -> tuple[Hits, Hits]:
    """Pairs that network and program tell apart: output follows the donor; it stays under the complement."""
    donors = _donors(told, g)
    if donors is None:
        return np.zeros(0, bool), np.zeros(0, bool)
    rows, others = donors
    own = _said(module, told.x)
    apart = (own[rows] == told.answers[rows]) & (own[others] == told.answers[others])
    rows, others = rows[apart], others[apart]
    if not len(rows):
        return np.zeros(0, bool), np.zeros(0, bool)
    base, donor = told.x[rows], told.x[others]
    follows = patched(module, place, base, donor, place.units) == told.answers[others]
    stays = patched(module, place, base, donor, _others(place)) == told.answers[rows]
    return follows, stays


def _others(place: Place) -> NDArray[np.intp]:
    return np.setdiff1d(np.arange(place.of), place.units)


def examine(module: nn.Module, place: Place, told: Told, *, seed: int) -> Site:
    """What patching and ablating the claimed units does, on inputs that did not choose them."""
    g = np.random.default_rng(seed)
    told = told.take(g.permutation(len(told))[:TESTING])
    follows, stays = exchange(module, place, told, g)
    controls = [_matched(module, place, told, g) for _ in range(_DRAWS)]
    apart = [exchange(module, replace(place, units=tuple(units)), told, g)[0] for units, _ in controls]
    alone = [_resampled(module, place, told, units, g) for units, _ in controls]
    forecast, curve = _dose(module, place, told, g)
    site = Site(
        site=place.site,
        units=list(place.units),
        of=place.of,
        ablated=rate(_resampled(module, place, told, place.units, g)),
        ablated_others=rate(np.concatenate(alone)),
        overlap=float(np.mean([overlap for _, overlap in controls])),
        follows=rate(follows),
        follows_random=rate(np.concatenate(apart)),
        stays=rate(stays),
        forecast=rate(forecast),
        curve=curve,
        passed=False,
        reason="",
    )
    fault = _fault(site)
    units = f"{len(place.units)} of {place.of} units of {place.site}"
    return site.model_copy(update={"passed": fault is None, "reason": fault or f"{units} carry it"})


def _fault(site: Site) -> str | None:
    """The first thing that a mechanism must show and this one does not."""
    curve = site.curve
    weights = np.asarray(curve.n, dtype=np.float64)
    off = (
        float(np.average(np.abs(np.subtract(curve.forecast, curve.observed)), weights=weights)) if len(weights) else 1
    )
    checks = [
        (site.follows.value >= FOLLOWS, "no few units were found whose exchange the answer follows"),
        (site.stays.value >= STAYS, "the answer does not stay when all other units are exchanged"),
        (site.follows.value - site.follows_random.value >= APART, "random units of the site do as well"),
        (site.ablated_others.value - site.ablated.value >= DISSOCIATED, "ablating random units does as much harm"),
        (site.forecast.value >= FORECAST, "exchanges do not come out as the program forecasts"),
        (off <= CURVE, "the answer does not depend on the donor's score as the program forecasts"),
    ]
    return next((words for held, words in checks if not held), None)


def _matched(module: nn.Module, place: Place, told: Told, g: np.random.Generator) -> tuple[NDArray[np.intp], float]:
    """As many other units, of the nearest spread to each claimed one; the share that had to be claimed ones."""
    spread_of = observe(module, told.x, [place.site]).activations[place.site].flatten(1).std(0).numpy()
    free = list(_others(place))
    taken = []
    for unit in g.permutation(place.units):
        if not free:
            break
        near = np.argsort(np.abs(spread_of[free] - spread_of[unit]), kind="stable")[:3]
        taken.append(free.pop(int(g.choice(near))))
    forced = len(place.units) - len(taken)
    again = g.choice(place.units, forced, replace=False) if forced else np.zeros(0, dtype=np.intp)
    return np.concatenate([np.array(taken, dtype=np.intp), again]), forced / len(place.units)


def _resampled(
    module: nn.Module, place: Place, told: Told, units: Sequence[int] | NDArray[np.intp], g: np.random.Generator
) -> Hits:
    """Does the network still answer as the program does, with each unit from another input on its own?"""
    state = observe(module, told.x, [place.site]).activations[place.site].flatten(1)
    chosen = torch.as_tensor(np.asarray(units, dtype=np.int64))
    drawn = torch.from_numpy(g.integers(0, len(told), (len(told), len(chosen))))
    values = state[drawn, chosen]

    def edit(own: Tensor) -> Tensor:
        flat = own.flatten(1)
        flat[:, chosen] = values
        return flat.view_as(own)

    hits: Hits = _answers(spread(intervene(module, told.x, {place.site: edit}))) == told.answers
    return hits


def _dose(module: nn.Module, place: Place, told: Told, g: np.random.Generator) -> tuple[Hits, Curve]:
    """Donors of all scores: the program forecasts the donor's answer. Pairs count where either predicts a change."""
    others = g.permutation(len(told))
    own = _said(module, told.x)
    said = patched(module, place, told.x, told.x[others], place.units)
    counted = (told.answers[others] != own) | (said != own)
    hits = (said == told.answers[others])[counted]
    scores, answered, forecast = told.scores[others][counted], said[counted], told.answers[others][counted]
    bins = _binned(scores)
    groups = [bins == place for place in np.unique(bins)]
    return hits, Curve(
        scores=[float(scores[group].mean()) for group in groups],
        forecast=[float((forecast[group] == 1).mean()) for group in groups],
        observed=[float((answered[group] == 1).mean()) for group in groups],
        n=[int(group.sum()) for group in groups],
    )


def _binned(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    if not len(scores):
        return np.zeros(0, dtype=np.intp)
    ends = np.unique(np.quantile(scores, np.linspace(0, 1, _BINS + 1)[1:-1]))
    return np.searchsorted(ends, scores, side="right")
