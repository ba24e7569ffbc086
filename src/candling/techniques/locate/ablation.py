"""Unit ablation: which few units carry an effect?

Question: which units, put back to their clean mean, remove an effect and leave everything else?
Source: mean ablation (Zhang and Nanda, 2309.16042); units ranked by how far the effect moves them.
Inputs: network [n, ...] → [n, K]; clean and changed inputs, row for row; sites by module path. A unit is a
    channel (dimension 1 of the site's output). Scores in standard deviations of the clean activation.
Cost: two forward passes of the inputs to rank all sites; one for each ablation tried.
Known failures: redundant (OR) carriers need both removed; the mean of a bimodal unit is off-distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candling.access import observe


@dataclass(frozen=True)
class AblationScores:
    """One site's units, the most moved first."""

    site: str
    order: Tensor
    """[units] indices"""
    score: Tensor
    """[units] |mean change| / clean standard deviation, in the site's own order"""
    mean: Tensor
    """[1, units, ...] mean clean activation: what an ablated unit is put back to"""

    def ablate(self, units: Tensor) -> Callable[[Tensor], Tensor]:
        """An edit for `intervene` that sets these units to their clean mean, at every position."""

        def edit(activation: Tensor) -> Tensor:
            activation = activation.clone()
            activation[:, units] = self.mean[:, units].expand(len(activation), *self.mean[:, units].shape[1:])
            return activation

        return edit


def rank_units(network: nn.Module, clean: Tensor, changed: Tensor, sites: Sequence[str]) -> list[AblationScores]:
    """The units of each site by how far the change moves them. clean, changed: [n, *input]."""
    before = observe(network, clean, sites).activations
    after = observe(network, changed, sites).activations
    ranked = []
    for site in sites:
        if before[site].ndim < 2:
            continue
        per_unit = [a.flatten(2).mean(2) if a.ndim > 2 else a for a in (before[site], after[site])]
        move = (per_unit[1] - per_unit[0]).mean(0).abs()
        score = move / (per_unit[0].std(0) + 1e-6)
        order = torch.argsort(score, descending=True, stable=True)
        ranked.append(AblationScores(site, order, score, before[site].mean(0, keepdim=True)))
    return ranked
