"""What a change of the input brings about, and the one direction of states that stands for it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from candling.access import Dataset, forward, intervene
from candling.access.hidden import hidden_sites
from candling.evidence.findings import LocatedContrast
from candling.problems.candidates import Candidate
from candling.techniques.locate import Contrast, contrasts

ROWS = 200
"""Rows that nulls are measured on."""

SITES = 6
_RANDOM_DIRECTIONS = 10


class Change(Protocol):
    """A broad change or a context, with the answers that it brings about."""

    def apply(self, data: Dataset, x: Tensor) -> Tensor: ...
    def follows(self, predicted: Tensor, y: Tensor) -> Tensor: ...


def followed(network: nn.Module, data: Dataset, change: Change) -> Tensor:
    """bool [n] whether rows under the change are answered as it says."""
    return change.follows(forward(network, change.apply(data, data.x)).argmax(-1), data.y)


def share(network: nn.Module, data: Dataset, change: Change) -> float:
    return mean(followed(network, data, change))


def mean(found: Tensor) -> float:
    """The share that is true; nothing of none."""
    return float(found.float().mean()) if len(found) else 0.0


def elicited(network: nn.Module, data: Dataset, change: Change, contrast: Contrast) -> float:
    """The same of unchanged rows, with the direction added."""
    answers = intervene(network, data.x, {contrast.site: contrast.add()}).argmax(-1)
    return float(change.follows(answers, data.y).float().mean())


def right(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(-1) == y).float().mean())


def first_rows(data: Dataset) -> Dataset:
    return data.take(torch.arange(min(ROWS, len(data))))


def locate_contrast(
    candidate: Candidate, search: Dataset, confirm: Dataset, change: Change, generator: torch.Generator
) -> LocatedContrast | None:
    """The site whose mean difference under the change calls up most of the behaviour on unchanged inputs.

    Chosen on the search rows, measured on the confirm rows.
    """
    network = candidate.load()
    sites = hidden_sites(network, search.x, SITES)
    if not sites:
        return None
    found = contrasts(network, search.x, change.apply(search, search.x), sites)
    best = max(found, key=lambda each: elicited(network, search, change, each))
    random = [elicited(network, confirm, change, best.random(generator)) for _ in range(_RANDOM_DIRECTIONS)]
    there = change.apply(confirm, confirm.x)
    return LocatedContrast(
        site=best.site,
        units=best.direction.numel(),
        success=share(network, confirm, change),
        elicited=elicited(network, confirm, change, best),
        accuracy_changed=right(forward(network, there), confirm.y),
        accuracy_restored=right(intervene(network, there, {best.site: best.add(-1.0)}), confirm.y),
        random_elicited=max(random),
        random_directions=_RANDOM_DIRECTIONS,
    )
