"""Unit ablation: which few units carry an effect?

Question: which units, put back to their clean mean, remove an effect and leave everything else?
Source: mean ablation (Zhang and Nanda, 2309.16042), units ranked by attribution patching (Nanda 2023; Kramár et
    al., 2403.00745, eq. 4), weighed by how far the effect moves them in clean standard deviations.
Inputs: network [n, ...] → [n, K]; clean and changed inputs, row for row; a metric, logits [n, K] → [n]; sites by
    module path. A unit is a channel (dimension 1 of the site's output). Scores in units of the metric.
Cost: two forward and one backward pass of the inputs to rank all sites; one forward pass for each ablation tried.
Known failures: redundant (OR) carriers need both removed; the mean of a bimodal unit is off-distribution; a
    saturated metric has no gradient to attribute.
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
    """[units] in the site's own order; zero where the change lowers the metric"""
    mean: Tensor
    """[1, units, ...] mean clean activation: what an ablated unit is put back to"""

    def ablate(self, units: Tensor) -> Callable[[Tensor], Tensor]:
        """An edit for `intervene` that sets these units to their clean mean, at every position."""

        def edit(activation: Tensor) -> Tensor:
            activation = activation.clone()
            activation[:, units] = self.mean[:, units].expand(len(activation), *self.mean[:, units].shape[1:])
            return activation

        return edit


def rank_units(
    network: nn.Module,
    clean: Tensor,
    changed: Tensor,
    sites: Sequence[str],
    metric: Callable[[Tensor], Tensor],
) -> list[AblationScores]:
    """The units of each site by what they add to the metric, times how unusual it is for them to move so far.

    clean, changed: [n, *input], n > 1. Sites whose output has no units are left out.
    """
    before = observe(network, clean, sites).activations
    seen = observe(network, changed.clone().requires_grad_(), sites, grad=True)
    after = {site: seen.activations[site] for site in sites if before[site].ndim >= 2}
    gradients = torch.autograd.grad(metric(seen.logits).sum(), list(after.values()))
    ranked = []
    for (site, activation), gradient in zip(after.items(), gradients, strict=True):
        change = activation.detach() - before[site]
        positions = tuple(range(2, change.ndim))
        share = (change * gradient).sum(positions).mean(0) if positions else (change * gradient).mean(0)
        clean_units, moved = (t.flatten(2).mean(2) if positions else t for t in (before[site], change))
        move = moved.mean(0).abs() / (clean_units.std(0) + 1e-6)
        score = share.clamp(min=0) * move
        order = torch.argsort(score, descending=True, stable=True)
        ranked.append(AblationScores(site, order, score, before[site].mean(0, keepdim=True)))
    return ranked
