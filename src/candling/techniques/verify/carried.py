"""Carried: do a few units of an inner site carry a program's answer, and do edits there do what it forecasts?

Question: is this what the network computes inside, or only what it says?
Source: interchange interventions (Geiger et al., 2106.02997) and resample ablation, with double dissociation: the
    claimed units against as many others of like spread, and against their complement. Which units: `placing`.
Inputs: a network, units of a site, inputs that did not choose them, the program's answers and scores.
Cost: about fifteen forward passes of 1,024 inputs.
Known failures: what lies in directions that no unit lies along; rare answers, of which few donors are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from candling.access import intervene, observe
from candling.access.unlabelled import spread
from candling.evidence.program import Answers
from candling.evidence.solution import Curve, Site
from candling.techniques.verify.agreement import rate

TESTING = 1024
FOLLOWS, STAYS, APART, DISSOCIATED, FORECAST, CURVE = 0.85, 0.85, 0.3, 0.15, 0.85, 0.15
"""What passing takes."""
_DRAWS, _BINS = 3, 12


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


def donors_of(told: Told, g: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
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
    donors = donors_of(told, g)
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
