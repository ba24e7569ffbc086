"""Directional ablation: which one direction of a state carries an effect?

Question: which direction, put back to what it holds without a change of the input, undoes what the change does?
Source: difference of means and its ablation x − r̂r̂ᵀx at every position (Arditi et al., 2406.11717, eq. 1–4), here to
    the mean component without the change rather than to nothing, so that what is usual stays.
Inputs: network [n, ...] → logits; changed and plain inputs; sites by module path, whose outputs are [n, L, d]. The
    direction is that of the last position, where the change has just ended.
Cost: one forward pass of either set for all sites; one for each ablation tried.
Known failures: effects that need more than one direction; after the last block the direction of the answer's own
    unembedding always works, so an early site says more than a late one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candling.access import observe


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction of one site's states, and how far along it they stand without the change."""

    site: str
    unit: Tensor
    """[d] of length 1"""
    level: float
    """Mean of state · unit at the last position of the plain inputs."""

    def ablate(self) -> Callable[[Tensor], Tensor]:
        """An edit for `intervene`: at every position the component along the direction is the level."""

        def edit(state: Tensor) -> Tensor:
            unit = self.unit.to(state)
            return state - ((state @ unit)[..., None] - self.level) * unit

        return edit

    def random(self, generator: torch.Generator, plain: Tensor) -> Direction:
        """The control: a direction drawn alike from all, ablated to where it stands in the states `plain` [n, d]."""
        unit = torch.randn(len(self.unit), generator=generator).to(plain)
        unit = unit / unit.norm()
        return Direction(self.site, unit, float((plain @ unit).mean()))


def mean_differences(network: nn.Module, changed: Tensor, plain: Tensor, sites: Sequence[str]) -> list[Direction]:
    """Of each site, the direction from the mean state after plain inputs to that after changed ones."""
    after, before = (observe(network, inputs, sites).activations for inputs in (changed, plain))
    found = []
    for site in sites:
        centre = before[site][:, -1].mean(0)
        difference = after[site][:, -1].mean(0) - centre
        unit = difference / difference.norm().clamp_min(1e-12)
        found.append(Direction(site, unit, float(centre @ unit)))
    return found


def last_states(network: nn.Module, inputs: Tensor, site: str) -> Tensor:
    """[n, d] of the last position."""
    return observe(network, inputs, [site]).activations[site][:, -1]
