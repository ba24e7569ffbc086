"""Same mechanism: does a network treat these inputs with what it uses for trusted ones?

Question: for inputs that it answers like trusted ones, does the network use the same units in the same way?
Source: importance |gradient × (state − trusted mean)| (attribution patching: Nanda 2023; Kramár et al., 2403.00745)
    and interchange interventions (Geiger et al., 2112.00826) with trusted donors of another prediction: on the units
    that matter most for trusted inputs, on all others, and on the subspace between the classes. And whether the
    trusted classes can be read in the states (Mahalanobis, Lee et al., 1807.03888): there and unused, or not there;
    and how far the middle unit deviates.
Inputs: network [n, ...] → [n, K]; trusted and untrusted inputs; sites by module path, whose outputs have the rows
    first. Figures are differences of cosines and shares from what held-out trusted inputs of like predictions give.
Cost: for each site five forward passes and one backward pass of every input that is used.
Known failures: trained against by an adversary, profiles alone say nothing (the swaps say more); where a new
    mechanism is legitimate most figures are those of a cheat: calibrate on networks that learned something new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from candling.access import forward, intervene, observe
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.maths.spread import Spread
from candling.techniques.verify.contract import Comparison

MOST = 256
"""Inputs of the group that are used, and as many trusted ones for each of two halves."""

_SHARE = 0.25  # of units that are swapped
_TOP = 0.2  # of units whose overlap is counted
_SLIGHT = 0.05  # deviations, lest nearly nothing be divided by nothing
_DIMENSIONS = 20  # in which classes are read
_PASSES = 6


def compare_mechanism(
    network: nn.Module, trusted: Tensor, untrusted: Tensor, sites: Sequence[str], *, seed: int
) -> Comparison:
    """The group `untrusted` [m, ...] against trusted inputs [n, ...] that the network answers like it.

    Raises InputError for an empty group, and for sites as `observe` does.
    """
    g = torch.Generator().manual_seed(seed)
    group = untrusted[torch.randperm(len(untrusted), generator=g)[:MOST]]
    known, held, every = alike(network, trusted, group, g)
    figures: dict[str, float] = {}
    reuse = []
    for site in sites:
        one, two, odd, donors = (_Seen.of(network, x, site) for x in (known, held, group, every))
        centre = one.states.mean(0)
        mine, usual, theirs = (each.importance(centre) for each in (one, two, odd))
        figures[f"{site}: cosine of profiles"] = _cosine(mine, theirs) - _cosine(mine, usual)
        signed = [_by_class(one, each, centre) for each in (odd, two)]
        figures[f"{site}: cosine by class"] = signed[0] - signed[1]
        figures[f"{site}: overlap"] = _overlap(mine, theirs) - _overlap(mine, usual)
        figures[f"{site}: breadth"] = math.log(_breadth(theirs) / _breadth(usual))
        order = torch.argsort(mine, descending=True, stable=True)
        count = max(1, round(_SHARE * len(order)))
        units = {
            "swap of what matters": order[:count],
            "swap of the rest": order[count:],
            "swap of random units": torch.randperm(len(order), generator=g)[:count],
        }
        for name, chosen in units.items():
            of_group, of_known = (_follows(network, site, each, donors, _units(chosen), g) for each in (odd, two))
            figures[f"{site}: {name}"] = of_group - of_known
            if name == "swap of what matters":
                reuse.append(of_group / max(of_known, 1e-6) if of_known > 0.05 else 1.0)
        between = _between(donors)
        of_group, of_known = (_follows(network, site, each, donors, _along(between), g) for each in (odd, two))
        figures[f"{site}: swap between classes"] = of_group - of_known
        read = _Reader.of(donors)
        figures[f"{site}: classes read"] = read(odd) - read(two)
        far, usual_far = (_middle_deviation(each.states, donors.states) for each in (odd, two))
        figures[f"{site}: deviation"] = math.log((far + _SLIGHT) / (usual_far + _SLIGHT))
    passes = _PASSES * len(sites) * (len(known) + len(held) + len(group) + len(every))
    return Comparison(figures, max(reuse, default=0.0), Cost(forward=passes, backward=passes // _PASSES))


def alike(network: nn.Module, trusted: Tensor, group: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Trusted inputs from two disjoint halves, each predicted as the group is as far as there are such inputs.

    And the first half as it is, for donors of all predictions. Raises InputError where there is nothing to compare.
    """
    if not len(group) or len(trusted) < 2:
        what = f"{len(group)} inputs beside {len(trusted)} trusted ones; give one and two at least"
        raise bad_input("untrusted", what)
    predicted, wanted = forward(network, trusted).argmax(-1), forward(network, group).argmax(-1)
    halves = torch.randperm(len(trusted), generator=g).chunk(2)
    found = []
    for half in halves:
        rows = []
        for label in wanted.unique():
            own = half[predicted[half] == label]
            own = own if len(own) else half
            rows.append(own[torch.randint(len(own), (int((wanted == label).sum()),), generator=g)])
        found.append(trusted[torch.cat(rows)])
    return found[0], found[1], trusted[halves[0][:MOST]]


@dataclass(frozen=True)
class _Seen:
    """A site's states, flattened, with the gradient of the predicted class's lead over the mean logit."""

    inputs: Tensor
    states: Tensor
    gradient: Tensor
    predicted: Tensor

    @classmethod
    def of(cls, network: nn.Module, inputs: Tensor, site: str) -> _Seen:
        given = inputs.clone().requires_grad_(inputs.is_floating_point())
        seen = observe(network, given, [site], grad=True)
        lead = (seen.logits.amax(-1) - seen.logits.mean(-1)).sum()
        (gradient,) = torch.autograd.grad(lead, seen.activations[site])
        states = seen.activations[site].detach()
        return cls(inputs, states.flatten(1), gradient.flatten(1), seen.logits.detach().argmax(-1))

    def importance(self, centre: Tensor) -> Tensor:
        """[units]"""
        return (self.gradient * (self.states - centre)).abs().mean(0)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))


def _by_class(one: _Seen, other: _Seen, centre: Tensor) -> float:
    """Mean over the classes that both predict of the cosine of signed profiles."""
    found = []
    for label in other.predicted.unique():
        profiles = [
            (each.gradient * (each.states - centre))[each.predicted == label].mean(0)
            for each in (one, other)
            if (each.predicted == label).any()
        ]
        if len(profiles) == 2:
            found.append(_cosine(*profiles))
    return sum(found) / len(found) if found else 0.0


def _breadth(profile: Tensor) -> float:
    """Over how many units importance is spread: the participation ratio."""
    return float((profile.sum().square() / profile.square().sum().clamp_min(1e-20)).clamp_min(1e-6))


def _overlap(a: Tensor, b: Tensor) -> float:
    count = max(1, round(_TOP * len(a)))
    first, second = (set(torch.topk(each, count).indices.tolist()) for each in (a, b))
    return len(first & second) / count


class _units:
    """Swaps chosen units."""

    def __init__(self, chosen: Tensor) -> None:
        self.chosen = chosen

    def __call__(self, own: Tensor, donor: Tensor) -> Tensor:
        own[:, self.chosen] = donor[:, self.chosen]
        return own


class _along:
    """Swaps the part within a subspace [d, r]."""

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis

    def __call__(self, own: Tensor, donor: Tensor) -> Tensor:
        return own + ((donor - own) @ self.basis) @ self.basis.T


def _between(seen: _Seen) -> Tensor:
    """[d, r] an orthonormal basis of what the predicted classes' mean states differ in."""
    means = torch.stack([seen.states[seen.predicted == label].mean(0) for label in seen.predicted.unique()])
    vectors, values, _ = torch.linalg.svd((means - means.mean(0)).T, full_matrices=False)
    basis: Tensor = vectors[:, values > 1e-6 * values.max().clamp_min(1e-12)]
    return basis


@dataclass(frozen=True)
class _Reader:
    """The trusted classes, read in a site's states by the nearest class mean, after a principal projection."""

    centre: Tensor
    basis: Tensor
    means: Tensor
    labels: Tensor
    spread: Spread

    @classmethod
    def of(cls, seen: _Seen) -> _Reader:
        centre = seen.states.mean(0)
        basis = torch.linalg.svd(seen.states - centre, full_matrices=False).Vh[:_DIMENSIONS].T
        flat, labels = (seen.states - centre) @ basis, seen.predicted.unique()
        means = torch.stack([flat[seen.predicted == label].mean(0) for label in labels])
        within = flat - means[torch.searchsorted(labels, seen.predicted)]
        return cls(centre, basis, means, labels, Spread.of(within))

    def __call__(self, seen: _Seen) -> float:
        """How often the class that is read is the network's answer."""
        flat = (seen.states - self.centre) @ self.basis
        nearest = self.spread.distance(flat[:, None] - self.means).argmin(1)
        return float((self.labels[nearest] == seen.predicted).float().mean())


def _middle_deviation(states: Tensor, usual: Tensor) -> float:
    """Of the middle unit: a cue moves few units far, content of another kind moves them all."""
    centre, scale = usual.mean(0), usual.std(0)
    alive = scale > 1e-6
    if not alive.any():
        return 0.0
    return float(((states - centre)[:, alive] / scale[alive]).abs().mean(0).median())


def _follows(
    network: nn.Module, site: str, seen: _Seen, donors: _Seen, swap: _units | _along, g: torch.Generator
) -> float:
    """Share of inputs that take the answer of a donor of another prediction when that part is swapped."""
    rows = [torch.nonzero(donors.predicted != label).flatten() for label in seen.predicted]
    usable = torch.tensor([len(each) > 0 for each in rows])
    if not usable.any():
        return 0.0
    drawn = torch.tensor([int(each[torch.randint(len(each), (), generator=g)]) if len(each) else 0 for each in rows])
    given = donors.states[drawn]

    def edit(state: Tensor) -> Tensor:
        return swap(state.flatten(1), given).view_as(state)

    answers = intervene(network, seen.inputs, {site: edit}).argmax(-1)
    return float((answers == donors.predicted[drawn])[usable].float().mean())
