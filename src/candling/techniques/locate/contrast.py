"""Contrast direction: does the mean difference that a change makes inside stand for the change?

Question: which site's mean difference of states, added to unchanged inputs, calls up what the change does?
Source: difference of means as a steering vector (Zou et al., 2310.01405; Rimsky et al., 2312.06681), here at sites of
    any network, over all positions, at its own length.
Inputs: network [n, ...] → [n, K]; plain and changed inputs, row for row; sites by module path.
Cost: two forward passes of the inputs for all sites; one for each direction tried.
Known failures: after the last hidden layer it adds a constant to the logits, which can favour one class but not
    relabel; behaviour that needs more than one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candling.access import observe


@dataclass(frozen=True, eq=False)
class Contrast:
    """A direction of one site's states, [units, ...]."""

    site: str
    direction: Tensor

    def add(self, times: float = 1.0) -> Callable[[Tensor], Tensor]:
        """An edit for `intervene`."""
        return lambda state: state + times * self.direction

    def random(self, generator: torch.Generator) -> Contrast:
        """The control: a direction of the same length, drawn alike from all."""
        drawn = torch.randn(self.direction.shape, generator=generator).to(self.direction)
        return Contrast(self.site, drawn * (self.direction.norm() / drawn.norm().clamp_min(1e-12)))


def contrasts(network: nn.Module, plain: Tensor, changed: Tensor, sites: Sequence[str]) -> list[Contrast]:
    """Of each site, the mean difference of its states."""
    before, after = (observe(network, inputs, sites).activations for inputs in (plain, changed))
    return [Contrast(site, (after[site] - before[site]).mean(0)) for site in sites]
